//! Nodes that elect their controller among them, before, while, and after there is no operator. One test: there is but one operator to
//! take away, and without it every other would fail.

use brainy_e2e::specs::prepare_bucket;
use brainy_e2e::{Environment, operator, with_temp_namespace};
use futures::try_join;

mod consensus;
mod storage_native;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_elect_their_controller_serve_on_without_an_operator_and_change_under_load() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "elected", |namespace| async move {
        let store = prepare_bucket(environment, &namespace).await?;
        let (group, native) = try_join!(
            consensus::Clusters::start(environment, &namespace),
            storage_native::Elected::start(environment, &namespace, &store),
        )?;
        operator::without(environment, async { try_join!(group.nodes_die(), native.the_leader_dies()) }).await?;
        try_join!(group.nodes_and_patterns_change(), native.the_pattern_changes())?;
        Ok(())
    })
    .await
}
