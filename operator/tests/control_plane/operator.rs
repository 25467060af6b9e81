//! The operator's own program, which asks a [proxy](crate::proxy) instead of the API server.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cluster::{OPERATORS, write_kubeconfig};
use crate::processes::{Process, own_address};

/// Starts it, kills it, and starts it again: as a container that restarts in its pod.
#[derive(Clone)]
pub(crate) struct Operator(Arc<Inner>);

struct Inner {
    name: String,
    folder: PathBuf,
    kubeconfig: PathBuf,
    namespace: Option<String>,
    /// What it takes for `/etc/hosts`, if not the machine's.
    hosts: Mutex<Option<PathBuf>>,
    /// What it runs in pods.
    sidecar: Mutex<&'static str>,
    /// The Lease that it leads by, and what else it is told.
    lease: String,
    more: Vec<String>,
    metrics: SocketAddr,
    process: Mutex<Option<Process>>,
}

impl Operator {
    /// Not started yet. `namespace`: where it looks; none: everywhere.
    pub(crate) fn new(name: &str, folder: &Path, server: &str, token: Option<&str>, namespace: Option<&str>) -> Self {
        Self::candidate(name, &format!("operator-{name}"), &[], folder, server, token, namespace)
    }

    /// The same, of several that lead by one Lease, with more arguments.
    pub(crate) fn candidate(
        name: &str,
        lease: &str,
        more: &[&str],
        folder: &Path,
        server: &str,
        token: Option<&str>,
        namespace: Option<&str>,
    ) -> Self {
        Self(Arc::new(Inner {
            name: format!("operator-{name}"),
            folder: folder.to_owned(),
            kubeconfig: write_kubeconfig(folder, name, server, token),
            namespace: namespace.map(str::to_owned),
            hosts: Mutex::default(),
            sidecar: Mutex::new("sidecar:1"),
            lease: lease.to_owned(),
            more: more.iter().map(|&one| one.to_owned()).collect(),
            metrics: own_address(),
            process: Mutex::default(),
        }))
    }

    /// From its next start on it finds names in this file.
    pub(crate) fn has_hosts(&self, file: PathBuf) {
        *self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    /// From its next start on it runs this image in pods.
    pub(crate) fn has_sidecar(&self, image: &'static str) {
        *self.0.sidecar.lock().unwrap_or_else(PoisonError::into_inner) = image;
    }

    /// How its name in the Lease begins.
    pub(crate) fn place(&self) -> String {
        let name = &self.0.name;
        format!("{name}_{name}_")
    }

    /// Starts it (again).
    pub(crate) fn start(&self) {
        let Inner { name, folder, kubeconfig, namespace, hosts, sidecar, lease, more, metrics, process } = &*self.0;
        let sidecar = *sidecar.lock().unwrap_or_else(PoisonError::into_inner);
        let mut args = vec![
            "run".to_owned(),
            format!("--sidecar-image={sidecar}"),
            format!("--lease-namespace={OPERATORS}"),
            format!("--lease-name={lease}"),
            format!("--identity={name}"),
            // One after the other: it need not wait for its own earlier process.
            format!("--pod-uid={name}"),
            format!("--listen={metrics}"),
            // Nobody has to wait for kubelets.
            "--trust-overlap-seconds=2".to_owned(),
        ];
        args.extend(more.iter().cloned());
        args.extend(namespace.iter().map(|namespace| format!("--namespaces={namespace}")));
        let mut program = env!("CARGO_BIN_EXE_brainy-operator");
        if let Some(hosts) = &*hosts.lock().unwrap_or_else(PoisonError::into_inner) {
            // In a namespace of its own, whose root may mount. The kernel forgets there what it was told to do at the parent's death.
            let script = "mount --bind \"$0\" /etc/hosts && exec setpriv --pdeathsig KILL \"$@\"";
            let before =
                ["--user", "--map-root-user", "--mount", "sh", "-c", script, &hosts.display().to_string(), program];
            args.splice(0..0, before.map(str::to_owned));
            program = "unshare";
        }
        // As the image has it.
        let memory = ["MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"].map(|name| (name, OsStr::new("65536")));
        let env = [("KUBECONFIG", kubeconfig.as_os_str()), ("MALLOC_ARENA_MAX", OsStr::new("1"))];
        let started = Process::start(name, folder, program, &args, &[&env[..], &memory[..]].concat());
        *process.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
    }

    /// SIGKILL. Nothing of it goes on when this returns.
    pub(crate) fn kill(&self) {
        self.0.process.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Its process id.
    pub(crate) fn id(&self) -> Option<u32> {
        self.0.process.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Process::id)
    }

    /// Where it answers `/metrics`.
    pub(crate) fn metrics(&self) -> SocketAddr {
        self.0.metrics
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let process = self.0.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.as_ref().map(Process::last_words).unwrap_or_default()
    }
}
