//! A store that checks conditions and then writes, in two steps, with no lock around them: s3s-fs, as it is published.
//! It honours every condition that comes alone, and only the race brings to light what it is.

use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

use crate::gateway::{ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, settings};
use crate::{open, unavailable};

/// Serves a folder until the test ends.
async fn serve(folder: &std::path::Path) -> SocketAddr {
    std::fs::create_dir(folder.join(BUCKET)).unwrap();
    let mut builder = S3ServiceBuilder::new(FileSystem::new(folder).unwrap());
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
            tokio::spawn(async move { connection.await.ok() });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_checks_and_then_writes_is_refused_by_name_of_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let address = serve(folder.path()).await;
    let store = open(settings(&format!("http://{address}"))).await;
    store.check().await.unwrap();
    let (cause, detail) = unavailable(store.prove().await);
    assert_eq!(cause, "UnsafeStore");
    assert!(detail.contains("check \"race-"), "{detail}");
}
