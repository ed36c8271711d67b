//! Certificates for a test.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};

const HOST: [&str; 2] = ["localhost.pem", "localhost.key"];

/// A CA of the test, and its certificates: for a broker at `localhost`, and for a client.
pub(crate) struct Authority(PathBuf);

/// A certificate with this name. With the name of its issuer it would count as self-signed.
fn named(name: &str, hosts: &[String]) -> CertificateParams {
    let mut params = CertificateParams::new(hosts).expect("names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    /// Makes a CA with this name in this directory. Another CA with the same name would be taken
    /// for this one.
    pub(crate) fn new(directory: PathBuf, name: &str) -> Self {
        std::fs::create_dir_all(&directory).expect("a directory for certificates");
        let write =
            |name: &str, text: String| std::fs::write(directory.join(name), text).expect("a file");
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
            .expect("a CA");
        write("ca.pem", ca.pem());
        for name in ["localhost", "pool"] {
            let key = KeyPair::generate().expect("a key");
            let params = named(name, &[name.to_owned()]);
            write(
                &format!("{name}.pem"),
                params.signed_by(&key, &ca).expect("a certificate").pem(),
            );
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self(directory)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0
            .join(name)
            .to_str()
            .expect("a path in UTF-8")
            .to_owned()
    }

    /// Writes certificate and key of the broker.
    pub(crate) fn host(&self) -> [String; 2] {
        HOST.map(|name| std::fs::read_to_string(self.0.join(name)).expect("a file"))
    }

    /// Replaces them by others, which the node uses from its next start on.
    pub(crate) fn set_host(&self, host: &[String; 2]) {
        for (name, text) in HOST.iter().zip(host) {
            std::fs::write(self.0.join(name), text).expect("a file");
        }
    }

    /// The configuration of a node that demands client certificates.
    pub(crate) fn listener(&self, port: u16) -> String {
        let file = |name| self.file(name);
        format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
            file("ca.pem"),
            file("localhost.pem"),
            file("localhost.key"),
        )
    }
}
