//! TLS to the broker: the trusted CAs, and the client certificate if there is one. The files are read for every connection,
//! so that a certificate can be renewed while the process runs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use lapin::tcp::{AsyncTcpStream, RustlsConnector, RustlsConnectorConfig};
use lapin::uri::AMQPUri;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use pool_core::pool::{Broker, ClientCertificate};

/// Reads the certificates that a connection needs.
///
/// # Errors
/// The text names the wrong file and what it must contain.
pub(super) async fn connector(config: &Broker) -> Result<RustlsConnector, String> {
    let config = config.clone();
    // Reading the system's many certificates blocks.
    let reading = tokio::task::spawn_blocking(move || read(&config));
    reading
        .await
        .unwrap_or_else(|error| Err(format!("the certificates could not be read: {error}")))
}

/// Whether the program at this address speaks TLS. The certificate does not matter, because nothing is sent to it.
pub(super) async fn is_spoken_by(uri: &AMQPUri, addresses: Vec<SocketAddr>) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let Ok(config) =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
    else {
        return false;
    };
    let connector: RustlsConnector = config
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
        .into();
    let Ok(runtime) = lapin::runtime::default_runtime() else {
        return false;
    };
    let Ok(stream) = AsyncTcpStream::connect(&runtime, addresses).await else {
        return false;
    };
    match stream.into_rustls(&connector, &uri.authority.host).await {
        Ok(_) => true,
        Err(error) => error
            .get_ref()
            .and_then(|inner| inner.downcast_ref())
            .is_some_and(|error| {
                // Every other error is one of TLS; most likely the certificate is not trusted.
                !matches!(error, rustls::Error::InvalidMessage(_))
            }),
    }
}

fn read(config: &Broker) -> Result<RustlsConnector, String> {
    let trusted = match &config.ca_file {
        Some(file) => {
            let trusted = certificates("ca_file", file)?;
            RustlsConnectorConfig::default().with_parsable_certificates(trusted)
        }
        None => RustlsConnectorConfig::new_with_native_certs().map_err(|error| {
            format!(
                "this machine has no CA certificates ({error}): install them (package ca-certificates), or name the \
                 broker's in broker.ca_file"
            )
        })?,
    };
    let Some(ClientCertificate {
        cert_file,
        key_file,
    }) = &config.client_certificate
    else {
        return trusted
            .connector_with_no_client_auth()
            .map_err(|error| error.to_string());
    };
    let certificates = certificates("client_cert_file", cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
        unusable(
            "client_key_file",
            key_file,
            &error,
            "a private key without a passphrase",
        )
    })?;
    trusted.connector_with_single_cert(certificates, key).map_err(|error| {
        let (cert_file, key_file) = (cert_file.display(), key_file.display());
        format!(
            "broker.client_cert_file {cert_file} and broker.client_key_file {key_file} do not belong together: {error}"
        )
    })
}

fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unusable = |error| unusable(key, file, &error, "certificates");
    let certificates = CertificateDer::pem_file_iter(file).map_err(unusable)?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(unusable)?;
    if certificates.is_empty() {
        Err(unusable(pem::Error::NoItemsFound))
    } else {
        Ok(certificates)
    }
}

fn unusable(key: &str, file: &Path, error: &pem::Error, expected: &str) -> String {
    let file = file.display();
    // The library's text for a missing file has details that do not help.
    if let pem::Error::Io(error) = error {
        return format!("broker.{key} {file} cannot be read: {error}");
    }
    format!("broker.{key} {file} is not usable ({error}): it must contain {expected} in PEM format")
}
