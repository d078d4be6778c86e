//! Servers that are reached by TLS: a migration under load, large values, a server that is killed; and certificates that do not fit.

#![allow(clippy::unwrap_used)] // A test that cannot reach its servers has nothing better to do than to stop.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fs;
use std::path::PathBuf;
use std::thread;
use tempfile::TempDir;
use twinlane_tests::compare::{self, compare};
use twinlane_tests::pair::{PATIENCE, until};
use twinlane_tests::proxy::{self, Proxy};
use twinlane_tests::servers::{self, Server, Version, free_port};
use twinlane_tests::workload::{self, Workload};

/// A certificate for a server, and the authority that signed it.
struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// For these names and addresses.
    fn of(names: &[&str]) -> Certificates {
        let folder = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let signed = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        fs::write(folder.path().join("cert.pem"), signed.pem()).unwrap();
        fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        Certificates { folder }
    }

    fn file(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.to_string_lossy().into_owned()
    }

    /// A server that speaks TLS on the port given back, and RESP in the clear on its own.
    fn server(&self) -> (Server, u16) {
        let port = free_port().unwrap();
        let (port_text, cert, key, ca) = (port.to_string(), self.file("cert.pem"), self.file("key.pem"), self.file("ca.pem"));
        let args = ["--tls-port", &port_text, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        let args = args.iter().copied().chain(["--tls-auth-clients", "no"]).map(str::to_owned).collect();
        let options = servers::Options { args, ..Default::default() };
        (Server::start(Version::Redis70, options).unwrap(), port)
    }
}

/// Options of a proxy that trusts this authority for these sides.
fn trusting(ca: &str, sides: &[&str]) -> proxy::Options {
    let variable = |side: &&str| (format!("TWINLANE__{side}__CA_FILE"), ca.to_owned());
    proxy::Options { env: sides.iter().map(variable).collect(), ..Default::default() }
}

fn url(port: u16) -> String {
    format!("rediss://127.0.0.1:{port}")
}

#[test]
fn a_migration_between_encrypted_servers_under_load() {
    let certificates = Certificates::of(&["127.0.0.1"]);
    let ((old, old_tls), (mut new, new_tls)) = (certificates.server(), certificates.server());
    let proxy = Proxy::start(&url(old_tls), &url(new_tls), trusting(&certificates.file("ca.pem"), &["OLD", "NEW"])).unwrap();
    proxy.wait_until_synced(PATIENCE).unwrap();
    let workload = Workload::start(&proxy.address(), &workload::Options::default()).unwrap();

    // More than one record of TLS, more than it buffers, and what travels on a connection of its own; many requests in one write.
    let mut client = proxy.client().unwrap();
    let value = |n: usize| -> Vec<u8> { (0..n).map(|at| (at * 7 % 251) as u8).collect() };
    let sizes = [1, 16_383, 16_384, 16_385, 65_536, 200_000, 1_048_576, 3_000_000];
    for n in sizes {
        let name = format!("value:{n}");
        assert!(client.call(&[b"SET", name.as_bytes(), &value(n)]).unwrap().is_ok());
        assert_eq!(client.call(&[b"GET", name.as_bytes()]).unwrap().bytes().unwrap(), value(n));
    }
    let pipeline: Vec<Vec<Vec<u8>>> =
        (0..2_000).map(|n| vec![b"SET".to_vec(), format!("many:{n}").into_bytes(), value(n % 3_000)]).collect();
    assert!(client.pipeline(&pipeline).unwrap().iter().all(twinlane_tests::resp::Value::is_ok));

    proxy.flip("/v1/cutover", &serde_json::json!({})).unwrap();
    let before = workload.commands();
    until("the workload to go on", PATIENCE, || Ok(workload.commands() > before + 2_000)).unwrap();
    proxy.flip("/v1/rollback", &serde_json::json!({})).unwrap();

    // The mirror dies and comes back empty.
    new.restart_empty().unwrap();
    proxy.wait_status("the mirror to be connected anew", PATIENCE, |status| status["new"]["healthy"] == true).unwrap();
    let before = workload.commands();
    until("the workload to go on", PATIENCE, || Ok(workload.commands() > before + 2_000)).unwrap();
    let summary = workload.stop();
    assert!(summary.is_clean(), "{summary:?}");
    proxy.wait_until_synced(PATIENCE).unwrap();
    compare(&old.address(), &new.address(), &compare::Options::default()).unwrap().into_result().unwrap();
    for n in sizes {
        assert_eq!(client.call(&[b"GET", format!("value:{n}").as_bytes()]).unwrap().bytes().unwrap(), value(n));
    }
}

/// A server that reads nothing for a while: what is encrypted waits for the socket, in order.
#[test]
fn an_encrypted_mirror_that_stands_still_is_served_when_it_goes_on() {
    let certificates = Certificates::of(&["127.0.0.1"]);
    let ((old, old_tls), (new, new_tls)) = (certificates.server(), certificates.server());
    let mut options = trusting(&certificates.file("ca.pem"), &["OLD", "NEW"]);
    // It is to wait in the lane, not to be left out and healed.
    options.env.push(("TWINLANE__MIRROR__QUEUE_AGE_MAX_MS".into(), "600000".into()));
    let proxy = Proxy::start(&url(old_tls), &url(new_tls), options).unwrap();
    proxy.wait_until_synced(PATIENCE).unwrap();
    new.freeze().unwrap();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let mut client = proxy.client().unwrap();
            thread::spawn(move || {
                for n in 0..300 {
                    let name = format!("key:{writer}:{n}");
                    assert!(client.call(&[b"SET", name.as_bytes(), &vec![b'a' + writer; 20_000]]).unwrap().is_ok());
                    assert!(client.call(&[b"APPEND", name.as_bytes(), b"more"]).unwrap().int().is_some());
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let queued = proxy.status().unwrap()["mirror"]["queued_effects"].as_u64().unwrap();
    assert!(queued > 1_000, "{queued} effects wait");
    new.thaw().unwrap();
    proxy.wait_until_synced(PATIENCE).unwrap();
    compare(&old.address(), &new.address(), &compare::Options::default()).unwrap().into_result().unwrap();
}

/// What no socket takes at once goes on when there is room again, and nothing else need happen on that connection: plain and encrypted.
#[test]
fn a_request_larger_than_the_sockets_reaches_a_server_that_stood_still() {
    let certificates = Certificates::of(&["127.0.0.1"]);
    for encrypted in [false, true] {
        let ((old, old_tls), (new, _)) = (certificates.server(), certificates.server());
        let mut options = if encrypted { trusting(&certificates.file("ca.pem"), &["OLD"]) } else { proxy::Options::default() };
        options.env.push(("TWINLANE__UPSTREAM__KEEPALIVE_S".into(), "600".into()));
        let from = if encrypted { url(old_tls) } else { old.url() };
        let proxy = Proxy::start(&from, &new.address(), options).unwrap();
        proxy.wait_until_synced(PATIENCE).unwrap();
        old.freeze().unwrap();
        let mut client = proxy.client().unwrap();
        client.set_timeout(PATIENCE).unwrap();
        let value = vec![b'v'; 32 << 20];
        client.send(&[&b"SET"[..], b"large", &value]).unwrap();
        old.thaw().unwrap();
        assert!(client.receive().unwrap().is_ok(), "encrypted: {encrypted}");
        proxy.wait_until_synced(PATIENCE).unwrap();
        compare(&old.address(), &new.address(), &compare::Options::default()).unwrap().into_result().unwrap();
    }
}

#[test]
fn a_certificate_that_does_not_fit_is_told_with_what_to_do() {
    let certificates = Certificates::of(&["cache.internal"]);
    let ((old, _), (_new, new_tls)) = (certificates.server(), certificates.server());
    let told = |options: proxy::Options, told: &[&str]| {
        let mut proxy = Proxy::prepare(&old.address(), &url(new_tls), options).unwrap();
        proxy.launch().unwrap();
        until("words about the certificate", PATIENCE, || Ok(told.iter().all(|text| proxy.log().contains(text)))).unwrap();
    };
    told(proxy::Options::default(), &["UnknownIssuer", "set ca_file"]);
    let trusted = trusting(&certificates.file("ca.pem"), &["NEW"]);
    told(trusted.clone(), &["server_name"]);
    let mut named = trusted;
    named.env.push(("TWINLANE__NEW__SERVER_NAME".into(), "cache.internal".into()));
    let proxy = Proxy::start(&old.address(), &url(new_tls), named).unwrap();
    proxy.wait_until_synced(PATIENCE).unwrap();
}
