//! S3 inside the pods of three nodes, for clients that are not ours, as they are published: they run here, each beside a node that
//! stays, while the containers of the third are killed over and over; and `examples/s3`, beside all three, whose acknowledgements
//! are held against what is there. `scripts/s3-clients.sh` makes the folder `BRAINY_S3_CLIENTS`, `e2e/cluster/tools.sh rclone` the
//! program `BRAINY_RCLONE`; without them the test says that it is left out.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_e2e::brainy::Cluster;
use brainy_e2e::forward::Relay;
use brainy_e2e::kill::Killer;
use brainy_e2e::specs;
use brainy_e2e::{Environment, Seen, until, with_temp_namespace};
use brainy_kubernetes::names::{self, S3_PORT};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::fs;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::sleep;

/// Between two strikes: what was killed has come back, and clients have got somewhere.
const REST: Duration = Duration::from_secs(10);
/// For a pod to be made anew.
const AGAIN: Duration = Duration::from_secs(120);
/// For everything that the clients do, on a small machine under load.
const LIMIT: Duration = Duration::from_secs(900);

/// Clients, and where they are.
struct Tools {
    clients: PathBuf,
    rclone: PathBuf,
    /// What they are told to do.
    sources: PathBuf,
}

impl Tools {
    fn find() -> Option<Self> {
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Some(Self { clients: path("BRAINY_S3_CLIENTS")?, rclone: path("BRAINY_RCLONE")?, sources })
    }

    fn suite(&self, name: &str) -> PathBuf {
        self.sources.join("sidecar/tests/s3_clients").join(name)
    }

    /// A program for Node, where its packages are found.
    async fn program(&self, source: &str) -> anyhow::Result<PathBuf> {
        let source = self.sources.join(source);
        let name = source.file_name().context("no file")?.to_string_lossy();
        let program = self.clients.join("node").join(format!("e2e-{name}"));
        fs::copy(&source, &program).await?;
        Ok(program)
    }
}

/// A node as a client sees it.
struct Door {
    relay: Relay,
    id: String,
    secret: String,
}

impl Door {
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("AWS_ENDPOINT_URL_S3", format!("http://{}", self.relay.address))
            .env("AWS_ACCESS_KEY_ID", &self.id)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            // Requests wait while a shard is away, and fail cleanly; the clients' own default is to give up soon.
            .env("AWS_MAX_ATTEMPTS", "10")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

/// The doors of all nodes, with the keys that the operator has made.
async fn doors(environment: &Environment, cluster: &Cluster) -> anyhow::Result<Vec<Door>> {
    let secrets: Api<Secret> = Api::namespaced(environment.client.clone(), &cluster.namespace);
    let data = secrets.get(&names::s3_secret(&cluster.name)).await?.data.unwrap_or_default();
    let field = |name: &str| anyhow::Ok(String::from_utf8(data.get(name).context("no keys")?.0.clone())?);
    let (id, secret) = (field("accessKeyId")?, field("secretAccessKey")?);
    let mut doors = Vec::new();
    for ordinal in 0..3 {
        let relay = Relay::to(cluster.pods_api(), names::node(&cluster.name, ordinal), S3_PORT).await?;
        doors.push(Door { relay, id: id.clone(), secret: secret.clone() });
    }
    Ok(doors)
}

fn succeeded(what: &str, output: &Output) -> anyhow::Result<String> {
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{what}: {said}\n{wrong}");
    Ok(said.into_owned())
}

async fn run(what: &str, command: &mut Command) -> anyhow::Result<()> {
    println!("{what}: {}", succeeded(what, &command.output().await?)?.trim());
    Ok(())
}

/// Everything that the clients of others do, beside two nodes that stay.
async fn clients(tools: &Tools, doors: &[Door], work: &Path) -> anyhow::Result<()> {
    let (one, other) = (&doors[0], &doors[1]);
    let suite = tools.program("sidecar/tests/s3_clients/sdk_js/suite.mjs").await?;
    run("@aws-sdk/client-s3", one.command("node").arg(suite)).await?;
    let python = tools.clients.join("python/bin/python");
    run("boto3", other.command(&python).arg(tools.suite("boto3_suite.py"))).await?;
    run("pyarrow", one.command(&python).arg(tools.suite("pyarrow_suite.py"))).await?;
    let (cli, files) = (work.join("cli"), work.join("rclone"));
    fs::create_dir(&cli).await?;
    fs::create_dir(&files).await?;
    let aws = tools.clients.join("python/bin/aws");
    run("aws", one.command("bash").arg(tools.suite("aws_cli.sh")).arg(aws).arg(&cli)).await?;
    run("rclone", other.command("bash").arg(tools.suite("rclone.sh")).arg(&tools.rclone).arg(&files)).await
}

/// A writer of the ledger, and where it says what was acknowledged.
async fn writer(program: &Path, door: &Door, who: &str, told: &Path) -> anyhow::Result<Child> {
    let told = std::fs::File::create(told)?;
    let mut command = door.command("node");
    command.arg(program).args(["write", who]).stdin(Stdio::piped()).stdout(told);
    Ok(command.spawn()?)
}

/// Strikes the third node until all clients have done: two times its containers, then the whole pod. Containers that are killed time
/// and again would be started again later and later.
async fn strike(environment: &Environment, cluster: &Cluster, mut over: watch::Receiver<bool>) -> anyhow::Result<u32> {
    let (pod, mut strikes) = (names::node(&cluster.name, 2), 0);
    loop {
        strikes += 1;
        if strikes % 3 == 0 {
            let before = cluster.pod_uids().await?;
            cluster.pods_api().delete(&pod, &DeleteParams::default().grace_period(0)).await?;
            until("the pod to be made anew", AGAIN, || async {
                let now = cluster.pod_uids().await?;
                Ok(if now.len() == 3 && now != before { Seen::Done(()) } else { Seen::NotYet(format!("{now:?}")) })
            })
            .await?;
            cluster.ready().await?;
        } else {
            Killer::beside(environment, cluster.pods_api(), &pod).await?.strike().await?;
        }
        tokio::select! {
            () = sleep(REST) => {}
            changed = over.wait_for(|over| *over) => {
                changed?;
                return Ok(strikes);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_serves_clients_of_others_while_a_node_is_killed_and_loses_nothing() -> anyhow::Result<()> {
    let Some(tools) = Tools::find() else {
        println!("LEFT OUT: S3 clients of others: BRAINY_S3_CLIENTS or BRAINY_RCLONE is not set");
        return Ok(());
    };
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "s3", |namespace| async move {
        let mut spec = specs::isolated(3);
        spec["s3"] = json!({"enabled": true});
        let cluster = Cluster::apply(environment, &namespace, "c", spec).await?;
        cluster.ready().await?;
        let doors = doors(environment, &cluster).await?;
        let work = std::env::temp_dir().join(format!("brainy-e2e-s3-{}", std::process::id()));
        fs::create_dir(&work).await?;

        let ledger = tools.program("examples/s3/ledger.mjs").await?;
        let told: Vec<PathBuf> = ["a", "b", "c"].map(|who| work.join(format!("told-{who}"))).into();
        let mut writers = Vec::new();
        for ((door, who), told) in doors.iter().zip(["a", "b", "c"]).zip(&told) {
            writers.push(writer(&ledger, door, who, told).await?);
        }
        let (over, watched) = watch::channel(false);
        let served = async {
            let done = tokio::time::timeout(LIMIT, clients(&tools, &doors, &work)).await;
            over.send(true)?;
            done.context("the clients took too long")?
        };
        let (strikes, ()) = tokio::try_join!(strike(environment, &cluster, watched), served)?;
        ensure!(strikes > 1, "the node was killed {strikes} times only");
        cluster.ready().await?;

        for mut writer in writers {
            // Its input is at its end.
            drop(writer.stdin.take());
            ensure!(writer.wait().await?.success(), "a writer failed");
        }
        let mut lines = Vec::new();
        for told in &told {
            lines.extend(fs::read(told).await?);
        }
        for door in &doors {
            let mut check = door.command("node");
            check.arg(&ledger).arg("check").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut check = check.spawn()?;
            let mut input = check.stdin.take().context("no input")?;
            input.write_all(&lines).await?;
            drop(input);
            println!(
                "ledger after {strikes} strikes: {}",
                succeeded("ledger", &check.wait_with_output().await?)?.trim()
            );
        }
        fs::remove_dir_all(&work).await?;
        Ok(())
    })
    .await
}
