//! TLS to a server: one provider (aws-lc-rs), the system's roots and a CA file, and the name always checked.

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// Makes aws-lc-rs the process's provider, for any library that asks for a default. Called once, first in `main`.
pub fn install_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The connector for one endpoint.
pub(super) fn connector(name: &str, ca_file: Option<&Path>) -> Result<(TlsConnector, ServerName<'static>), String> {
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| format!("the certificate cannot be checked against {name:?}: give server_name, a DNS name or an address"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots(ca_file)?)
        .with_no_client_auth();
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// System roots plus the CA file. Unreadable system certificates are skipped, as browsers do; a CA file that the operator
/// named must be whole.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        add_ca_file(&mut roots, path).map_err(|reason| format!("ca_file {}: {reason}", path.display()))?;
    }
    if roots.is_empty() {
        return Err("no trusted certificate was found on this machine: install ca-certificates or set ca_file".into());
    }
    Ok(roots)
}

fn add_ca_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let mut count = 0;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| format!("cannot be read: {error}"))? {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("has a certificate that cannot be used: {error}"))?;
        count += 1;
    }
    if count == 0 { Err("has no certificate in it".into()) } else { Ok(()) }
}

/// rustls's words, and what to do about them.
pub(super) fn explain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let advice = if text.contains("UnknownIssuer") {
        "set ca_file to the authority that signed the server's certificate"
    } else if text.contains("NotValidForName") || text.contains("not valid for name") {
        "connect by the name in the certificate, or set server_name to it"
    } else if text.contains("Expired") || text.contains("expired") {
        "the server's certificate must be renewed"
    } else if text.contains("InvalidContentType") || text.contains("corrupt message") || text.contains("eof") {
        "the port may not speak TLS: use redis:// or the server's TLS port"
    } else {
        "check that the port speaks TLS"
    };
    format!("{text}; {advice}")
}
