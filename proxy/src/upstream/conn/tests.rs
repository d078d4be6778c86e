//! Parsing by tables; the handshake against a scripted peer (a server below 6, wrong words, silence); everything else
//! against a real server when one is installed.

use super::*;
use crate::net::{ServerUrl, TargetOptions, listen};
use crate::secret::Secret;
use std::process::{Child, Command, Stdio};

const SECOND: Duration = Duration::from_secs(1);

fn target(url: &str) -> Target {
    let url = ServerUrl::parse(url).unwrap();
    let options = TargetOptions { url: &url, password: &Secret::default(), ca_file: None, server_name: None };
    Target::new(Endpoint::Old, &options).unwrap()
}

#[test]
fn info_of_both_families() {
    let redis = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n# Replication\r\nrole:master\r\nloading:0\r\ncluster_enabled:0\r\n";
    let info = ServerInfo::parse(redis);
    assert_eq!((info.display_version().as_str(), info.run_id.as_str(), info.major_minor()), ("7.0.15", "abc", (7, 0)));
    assert!(!info.loading && !info.cluster && info.role == "master");
    let valkey = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\nloading:1\r\ncluster_enabled:1\r\n";
    let info = ServerInfo::parse(valkey);
    assert_eq!((info.display_version().as_str(), info.major_minor()), ("valkey 8.0.1", (8, 0)));
    assert!(info.loading && info.cluster);
    assert_eq!(ServerInfo::parse("rubbish").version, "");
}

#[test]
fn keyspace_and_client_lines() {
    let keyspace = parse_keyspace("# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=0\r\ndb12:keys=9,expires=0,avg_ttl=0,subexpiry=0\r\n");
    assert_eq!(keyspace, BTreeMap::from([(0, Keys { keys: 3, expires: 1 }), (12, Keys { keys: 9, expires: 0 })]));
    let lines = "id=31 addr=1.1.1.1:1 name=x\nid=3 addr=127.0.0.1:5000 laddr=127.0.0.1:6379 name=\n";
    assert_eq!(addr_of(lines, 3).as_deref(), Some("127.0.0.1:5000"));
    assert_eq!(addr_of(lines, 1), None);
    let lines = "id=7 addr=10.0.0.1:5 fd=8 name= age=1\nid=9 addr=10.0.0.1:6 fd=9 name=twinlane:id:1 age=1\n";
    assert_eq!(named(lines, "twinlane:id:1"), Some((9, "10.0.0.1:6".into())));
    assert_eq!(named(lines, "twinlane:id"), None);
    for words in
        ["ERR Syntax error, try CLIENT (LIST | KILL)", "ERR Unknown subcommand or wrong number of arguments for 'ID'. Try CLIENT HELP"]
    {
        assert!(is_unknown_subcommand(words));
    }
}

/// A peer that gives these answers, one per read, and records what it was asked.
async fn scripted(answers: &'static [&'static [u8]], url: &str) -> (Result<Conn, ConnError>, tokio::task::JoinHandle<String>) {
    let listener = tokio::net::TcpListener::from_std(listen("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
    let url = url.replace("PORT", &listener.local_addr().unwrap().port().to_string());
    let peer = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.unwrap();
        let (mut asked, mut buffer) = (String::new(), [0; 4096]);
        for answer in answers {
            let count = peer.read(&mut buffer).await.unwrap();
            asked.push_str(&String::from_utf8_lossy(&buffer[..count]).replace("\r\n", " "));
            peer.write_all(answer).await.unwrap();
        }
        asked
    });
    (Conn::open(&target(&url), "twinlane:test", SECOND).await, peer)
}

#[tokio::test]
async fn a_server_below_6_is_spoken_to_in_resp2() {
    let answers: &[&[u8]] = &[b"+OK\r\n", b"-ERR unknown command `HELLO`, with args\r\n", b"+OK\r\n", b"$-1\r\n"];
    let (conn, peer) = scripted(answers, "redis://default:pw@127.0.0.1:PORT").await;
    let mut conn = conn.unwrap();
    assert_eq!(conn.protocol(), Protocol::Resp2);
    assert_eq!(conn.get_mark().await.unwrap(), None);
    assert!(conn.into_stream().is_some());
    assert!(peer.await.unwrap().starts_with("*2 $4 AUTH $2 pw *2 $5 HELLO"));
}

/// A server at `maxclients` says so and closes without reading. Where that resets the connection before our first words are written, the
/// reason is still what it said, and not that they could not be written.
#[tokio::test]
async fn the_words_of_a_server_that_takes_no_more_clients_are_heard() {
    let listener = tokio::net::TcpListener::from_std(listen("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
    let target = target(&format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port()));
    let (stream, accepted) = tokio::join!(target.connect(SECOND), listener.accept());
    let mut peer = accepted.unwrap().0;
    peer.write_all(b"-ERR max number of clients reached\r\n").await.unwrap();
    peer.set_zero_linger().unwrap();
    drop(peer);
    let (side, address, buffer, protocol) = (Endpoint::Old, target.address(), BytesMut::new(), Protocol::Resp2);
    let mut conn = Conn { side, address, stream: stream.unwrap(), buffer, protocol, deadline: SECOND, broken: false };
    let error = conn.hello().await.unwrap_err().to_string();
    assert!(error.contains("max number of clients reached"), "{error}");
}

#[tokio::test]
async fn h5_nothing_is_sent_after_a_refused_auth() {
    let (conn, peer) = scripted(&[b"-WRONGPASS invalid username-password pair\r\n"], "redis://u:hunter2@127.0.0.1:PORT").await;
    let error = conn.unwrap_err();
    assert!(error.is_permanent());
    let text = error.to_string();
    assert!(text.contains("refused AUTH: WRONGPASS") && text.contains("check user and password") && !text.contains("hunter2"), "{text}");
    assert_eq!(peer.await.unwrap(), "*3 $4 AUTH $1 u $7 hunter2 ");
}

#[tokio::test]
async fn rubbish_and_silence_break_the_connection_for_good() {
    let (conn, _) = scripted(&[b"HTTP/1.1 400 Bad Request\r\n"], "redis://127.0.0.1:PORT").await;
    assert!(matches!(conn.unwrap_err(), ConnError::Garbled { .. }));
    let hello: &[&[u8]] = &[b"%1\r\n$5\r\nproto\r\n:3\r\n", b"+OK\r\n", b"$5\r\nhal"];
    let (conn, peer) = scripted(hello, "redis://127.0.0.1:PORT").await;
    let mut conn = conn.unwrap();
    assert_eq!(conn.protocol(), Protocol::Resp3);
    assert!(matches!(conn.call(&[b"GET", b"k"]).await, Err(ConnError::Slow { .. } | ConnError::Closed { .. })));
    assert!(matches!(conn.call(&[b"PING"]).await, Err(ConnError::Closed { .. })));
    assert!(conn.into_stream().is_none());
    drop(peer);
}

/// A real server on a free port, ended by its own handle.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    _directory: tempfile::TempDir,
}

impl Server {
    /// `None` where no redis-server is installed.
    pub(crate) async fn start(extra: &[&str]) -> Option<Server> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--save", "", "--dir"]).arg(directory.path()).args(extra);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let server = Server { child, port, _directory: directory };
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(server);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("redis-server does not answer");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn every_question_to_a_real_server() {
    let Some(server) = Server::start(&["--databases", "5", "--requirepass", "pw"]).await else { return };
    let error = Conn::open(&target(&server.url()), "twinlane:test", SECOND).await.unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("password_file"), "{error}");

    let url = format!("redis://:pw@127.0.0.1:{}", server.port);
    let mut conn = Conn::open(&target(&url), "twinlane:test", SECOND).await.unwrap();
    let info = conn.info().await.unwrap();
    assert!(info.run_id.len() == 40 && info.role == "master" && !info.loading && info.major_minor() >= (5, 0), "{info:?}");
    assert_eq!(conn.databases().await.unwrap(), Some(5));
    assert!(conn.commands().await.unwrap().is_superset(&HashSet::from(["GET".into(), "XADD".into()])));

    assert_eq!(conn.get_mark().await.unwrap(), None);
    let mark = Mark { installation: "i".into(), epoch: 4, primary: Endpoint::New, side: Endpoint::Old, count: 3 };
    conn.set_mark(&mark).await.unwrap();
    assert_eq!(conn.get_mark().await.unwrap(), Some(mark));
    assert_eq!(conn.keyspace().await.unwrap(), BTreeMap::from([(0, Keys { keys: 1, expires: 0 })]));
    conn.ask(&[b"SET", Mark::KEY.as_bytes(), b"hello"]).await.unwrap();
    assert!(matches!(conn.get_mark().await, Err(ConnError::BadMark { .. })));

    let mut other = Conn::open(&target(&url), "twinlane:other", SECOND).await.unwrap();
    let (id, addr) = other.client_id_and_addr().await.unwrap();
    assert_eq!(conn.kill_client(id, "1.2.3.4:5").await.unwrap(), 0);
    assert_eq!(conn.kill_client(id, &addr).await.unwrap(), 1);
    assert!(matches!(other.call(&[b"PING"]).await, Err(ConnError::Closed { .. })));
    assert!(conn.into_stream().is_some());
}
