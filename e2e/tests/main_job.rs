//! The main job, as `make demo` does it.

use brainy_e2e::main_job::{self, Options};
use brainy_e2e::{Environment, records, with_temp_namespace};

#[tokio::test(flavor = "multi_thread")]
async fn real_data_survives_a_kill_in_the_middle_of_a_load_with_either_strategy() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    let input = records::input()?;
    with_temp_namespace(environment, "main", |namespace| async {
        let rows = main_job::run(environment, &input, &Options { namespace: Some(namespace), keys: "packages".into() })
            .await?;
        assert_eq!(rows.len(), 2);
        Ok(())
    })
    .await
}
