//! The sockets against a real listener on this machine: what a failed connect says, and how a reset looks to the peer.

use super::*;
use std::io::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn target(url: &str) -> Target {
    let url = ServerUrl::parse(url).unwrap();
    let options = TargetOptions { url: &url, password: &Secret::new("fallback"), ca_file: None, server_name: None };
    Target::new(Endpoint::New, &options).unwrap()
}

/// A listener on a port of its own.
fn listening(address: std::net::SocketAddr) -> tokio::net::TcpListener {
    tokio::net::TcpListener::from_std(listen(address).unwrap()).unwrap()
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn bytes_flow_and_a_reset_is_seen_as_one() {
    let listener = listening("127.0.0.1:0".parse().unwrap());
    let port = listener.local_addr().unwrap().port();
    let mut stream = target(&format!("redis://localhost:{port}")).connect(SECOND).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    prepare_client(&peer).unwrap();
    stream.write_all(b"PING").await.unwrap();
    let mut buffer = [0; 4];
    peer.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"PING");
    stream.into_socket().unwrap().reset();
    assert_eq!(peer.read(&mut buffer).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_refused_connection_names_the_side_the_address_and_what_to_check() {
    let listener = listening("127.0.0.1:0".parse().unwrap());
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = target(&format!("redis://:hunter2@127.0.0.1:{port}")).connect(SECOND).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("new (127.0.0.1:{port}): cannot connect")), "{error}");
    assert!(error.contains("check that the server runs") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_plain_port_asked_for_tls_says_so() {
    let listener = listening("127.0.0.1:0".parse().unwrap());
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 2048];
        let _ = peer.read(&mut buffer).await;
        peer.write_all(b"-ERR unknown command\r\n").await.unwrap();
        let _ = peer.read(&mut buffer).await;
    });
    let url = ServerUrl::parse(&format!("rediss://127.0.0.1:{port}")).unwrap();
    let options = TargetOptions { url: &url, password: &Secret::default(), ca_file: None, server_name: None };
    let Ok(target) = Target::new(Endpoint::Old, &options) else { return }; // a machine without any root certificate
    let error = target.connect(SECOND).await.unwrap_err().to_string();
    assert!(error.contains("no TLS") && error.contains("redis://"), "{error}");
    server.await.unwrap();
}

#[test]
fn the_password_of_the_url_wins_over_the_file() {
    assert_eq!(target("redis://:mine@h:1").password.expose(), "mine");
    assert_eq!(target("redis://h:1").password.expose(), "fallback");
    assert!(!format!("{:?}", target("redis://:mine@h:1")).contains("mine"));
}

#[test]
fn a_ca_file_that_is_missing_or_empty_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let url = ServerUrl::parse("rediss://h:1").unwrap();
    for (path, word) in [(directory.path().join("none.pem"), "cannot be read"), (empty, "no certificate")] {
        let options = TargetOptions { url: &url, password: &Secret::default(), ca_file: Some(&path), server_name: None };
        let error = Target::new(Endpoint::Old, &options).unwrap_err().to_string();
        assert!(error.starts_with("[old] ca_file") && error.contains(word), "{error}");
    }
}
