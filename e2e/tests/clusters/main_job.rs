//! The main job, as `make demo` does it, with every fourth record: it is for those who watch it that it takes minutes.

use brainy_e2e::main_job::{self, Options};
use brainy_e2e::{Environment, records, with_temp_namespace};

#[tokio::test(flavor = "multi_thread")]
async fn real_data_survives_a_kill_in_the_middle_of_a_load_with_either_strategy() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    let mut input = records::input()?;
    input.records = input.records.into_iter().step_by(4).collect();
    with_temp_namespace(environment, "main", |namespace| async {
        let rows = main_job::run(environment, &input, &Options { namespace: Some(namespace), keys: "packages".into() })
            .await?;
        assert_eq!(rows.len(), 2);
        Ok(())
    })
    .await
}
