//! Why there is no connection to the broker: classified once, with what to do about it.

use std::fmt;
use std::io;

use lapin::ErrorKind;
use lapin::uri::{AMQPUri, SASLMechanism};
use rustls::{AlertDescription, CertificateError};

/// An attempt at a connection that failed, or a connection that was lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("connect to RabbitMQ at {address}: {cause}")]
pub struct NotConnected {
    /// Host, port and virtual host.
    pub address: String,
    pub cause: Cause,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It cannot be reached, or goes away: waiting may cure it.
    Away(String),
    /// The URL is none.
    Url,
    /// A file of certificates or of a key is no use; the text says which one.
    Files(String),
    /// The user or the password is wrong.
    Login { user: String, said: String },
    /// The certificate of this process was taken for nobody's.
    External { said: String },
    /// The virtual host is not there, or not for this user.
    Vhost {
        user: String,
        vhost: String,
        said: String,
    },
    /// The broker's certificate is not trusted.
    Untrusted(String),
    /// The broker's certificate is for others.
    WrongName { host: String, said: String },
    /// The broker wants a client certificate that it trusts.
    ClientCertificate(String),
    /// TLS was spoken to a port without.
    NoTls,
    /// AMQP was spoken to a port with TLS.
    Tls,
    /// AMQP was spoken to something else.
    NoAmqp,
}

impl Cause {
    /// Whether the broker is there and says no, so that waiting cures nothing. The same later, in a process that has
    /// been connected, may be somebody's work on the broker.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Away(_))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(what) => f.write_str(what),
            Self::Url => f.write_str("the URL is none: write amqp://user:password@host:5672/%2f, or amqps://…"),
            Self::Files(what) => f.write_str(what),
            Self::Login { user, said } => write!(
                f,
                "the broker refuses the user {user:?} or the password ({said}): correct them in AMQP_URL or broker.url, or add the \
                 user to the broker"
            ),
            Self::External { said } => write!(
                f,
                "the broker does not know the user that broker.client_cert_file names ({said}): enable \
                 rabbitmq_auth_mechanism_ssl and EXTERNAL there and add the user, or put user and password into the URL"
            ),
            Self::Vhost { user, vhost, said } => write!(
                f,
                "the virtual host {vhost:?} is not there, or not for the user {user:?} ({said}): correct the end of AMQP_URL or \
                 broker.url (`/%2f` is the default one), or add it: rabbitmqctl add_vhost, set_permissions"
            ),
            Self::Untrusted(said) => write!(
                f,
                "the broker's certificate is not trusted ({said}): name the CA that signed it in broker.ca_file"
            ),
            Self::WrongName { host, said } => write!(
                f,
                "the broker's certificate is not for {host:?} ({said}): use a name that it has in AMQP_URL or broker.url"
            ),
            Self::ClientCertificate(said) => write!(
                f,
                "the broker wants a client certificate of a CA that it trusts ({said}): set broker.client_cert_file and \
                 broker.client_key_file"
            ),
            Self::NoTls => f.write_str(
                "the broker speaks no TLS on this port: write amqp://, or the port for TLS (5671 by default)",
            ),
            Self::Tls => f.write_str(
                "the broker speaks TLS on this port: write amqps://, or the port without TLS (5672 by default)",
            ),
            Self::NoAmqp => f.write_str("what listens there does not speak AMQP 0-9-1: is it another program's port?"),
        }
    }
}

/// What a broker says in TLS to a client without the right certificate.
const CERTIFICATE_ALERTS: [AlertDescription; 8] = [
    AlertDescription::CertificateRequired,
    AlertDescription::HandshakeFailure,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
];

const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const NOT_ALLOWED: u16 = 530;

/// What an attempt that ended with this error failed of.
pub(super) fn cause_of(error: &lapin::Error, uri: &AMQPUri) -> Cause {
    let user = || uri.authority.userinfo.username.clone();
    let said = || plain(error);
    if let ErrorKind::ProtocolError(refused) = error.kind() {
        return match refused.get_id() {
            ACCESS_REFUSED if uri.query.auth_mechanism == Some(SASLMechanism::External) => {
                Cause::External { said: said() }
            }
            ACCESS_REFUSED => Cause::Login {
                user: user(),
                said: said(),
            },
            // Too many connections, which pass.
            NOT_ALLOWED if refused.get_message().as_str().contains("limit") => Cause::Away(said()),
            NOT_FOUND | NOT_ALLOWED => Cause::Vhost {
                user: user(),
                vhost: uri.vhost.clone(),
                said: said(),
            },
            _ => Cause::Away(said()),
        };
    }
    if let ErrorKind::IOError(error) = error.kind() {
        return of_io(error, uri);
    }
    let gibberish = matches!(
        error.kind(),
        ErrorKind::InvalidProtocolVersion(_) | ErrorKind::ParsingError(_)
    );
    if gibberish {
        Cause::NoAmqp
    } else {
        Cause::Away(said())
    }
}

fn of_io(error: &io::Error, uri: &AMQPUri) -> Cause {
    // RabbitMQ hangs up on a mechanism that it does not have.
    if error.kind() == io::ErrorKind::ConnectionAborted
        && uri.query.auth_mechanism == Some(SASLMechanism::External)
    {
        return Cause::External {
            said: error.to_string(),
        };
    }
    let Some(tls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        return Cause::Away(error.to_string());
    };
    let said = tls.to_string();
    if let rustls::Error::InvalidCertificate(problem) = tls {
        let name = matches!(
            problem,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        );
        let host = uri.authority.host.clone();
        return if name {
            Cause::WrongName { host, said }
        } else {
            Cause::Untrusted(said)
        };
    }
    if let rustls::Error::AlertReceived(alert) = tls
        && CERTIFICATE_ALERTS.contains(alert)
    {
        return Cause::ClientCertificate(said);
    }
    if let rustls::Error::InvalidMessage(_) = tls {
        Cause::NoTls
    } else {
        Cause::Away(said)
    }
}

/// What the broker said, without lapin's words around it.
fn plain(error: &lapin::Error) -> String {
    if let ErrorKind::ProtocolError(error) = error.kind() {
        return error.get_message().to_string();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

    fn cause(kind: ErrorKind, url: &str) -> Cause {
        cause_of(&kind.into(), &url.parse().expect("a URL"))
    }

    fn refused(kind: impl Into<AMQPErrorKind>, said: &str) -> ErrorKind {
        ErrorKind::ProtocolError(AMQPError::new(kind.into(), said.into()))
    }

    fn io(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ErrorKind {
        ErrorKind::IOError(io::Error::other(error).into())
    }

    const PLAIN: &str = "amqp://me:secret@broker:5672/shop";
    const EXTERNAL: &str = "amqps://broker/shop?auth_mechanism=external";

    #[test]
    fn what_waiting_does_not_cure_is_a_refusal_and_says_what_to_do() {
        let login = refused(
            AMQPSoftError::ACCESSREFUSED,
            "ACCESS_REFUSED - Login was refused",
        );
        let vhost = refused(
            AMQPHardError::NOTALLOWED,
            "NOT_ALLOWED - vhost shop not found",
        );
        let untrusted = io(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer,
        ));
        let name = io(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName,
        ));
        let nobody = io(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired,
        ));
        let no_tls = io(rustls::Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType,
        ));
        let hung_up = ErrorKind::IOError(io::Error::from(io::ErrorKind::ConnectionAborted).into());
        for (kind, url, text) in [
            (
                login.clone(),
                PLAIN,
                "refuses the user \"me\" or the password",
            ),
            (login, EXTERNAL, "rabbitmq_auth_mechanism_ssl"),
            (hung_up, EXTERNAL, "rabbitmq_auth_mechanism_ssl"),
            (vhost, PLAIN, "the virtual host \"shop\" is not there"),
            (untrusted, PLAIN, "broker.ca_file"),
            (name, PLAIN, "not for \"broker\""),
            (nobody, PLAIN, "broker.client_cert_file"),
            (no_tls, PLAIN, "speaks no TLS"),
        ] {
            let cause = cause(kind, url);
            assert!(cause.is_refusal(), "{cause}");
            assert!(cause.to_string().contains(text), "{cause}");
            assert!(
                !cause.to_string().contains("secret"),
                "no password: {cause}"
            );
        }
    }

    #[test]
    fn what_may_pass_is_waited_for() {
        let reset = ErrorKind::IOError(io::Error::from(io::ErrorKind::ConnectionReset).into());
        let shutdown = refused(
            AMQPHardError::CONNECTIONFORCED,
            "CONNECTION_FORCED - broker forced connection closure",
        );
        let full = refused(
            AMQPHardError::NOTALLOWED,
            "NOT_ALLOWED - access to vhost refused: connection limit (2) is reached",
        );
        for kind in [reset, shutdown, full, ErrorKind::MissingHeartbeatError] {
            let cause = cause(kind, PLAIN);
            assert!(!cause.is_refusal(), "{cause}");
        }
    }
}
