//! S3's listeners.

use std::net::SocketAddr;
use std::sync::Arc;

use brainy_kubernetes::names::S3_PORT;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::http::intake::Intake;
use crate::http::outlet::Outlet;
use crate::http::server::{self, Connections, S3_LIMITS, Socket, Stop};
use crate::metrics::Metrics;
use crate::routing::Router;
use crate::s3::sweeper::Times;
use crate::s3::{Access, Gateway};

/// Where S3 is served, and how.
pub(super) struct S3Listeners {
    pub(super) tcp: TcpListener,
    pub(super) unix: Option<Socket>,
    pub(super) access: Access,
    /// Most keys on a page of a listing; 0: all there are.
    pub(super) page: u32,
}

impl S3Listeners {
    /// The address that clients are told.
    pub(super) fn address(&self) -> SocketAddr {
        self.tcp.local_addr().unwrap_or(SocketAddr::from(([127, 0, 0, 1], S3_PORT)))
    }

    /// Serves until `stop` is raised. Connections have places of their own; bodies and answers share the storage API's memory.
    pub(super) fn open(
        self,
        router: &Arc<Router>,
        metrics: &Arc<Metrics>,
        intake: &Intake,
        outlet: &Outlet,
        stop: Stop,
    ) -> (Connections, Vec<JoinHandle<()>>) {
        let gateway = Gateway::new(Arc::clone(router), Arc::clone(metrics), intake.clone(), outlet.clone(), self.page);
        let sweeper = tokio::spawn(gateway.sweeper(Times::default()).run(stop.clone()));
        let (app, connections) = (gateway.app(self.access), Connections::new(S3_LIMITS, stop));
        let mut tasks = vec![sweeper, tokio::spawn(server::serve_tcp(self.tcp, connections.clone(), app.clone()))];
        if let Some(unix) = self.unix {
            tasks.push(tokio::spawn(server::serve_unix(unix, connections.clone(), app)));
        }
        (connections, tasks)
    }
}
