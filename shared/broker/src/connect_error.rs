//! Why a process cannot connect to the broker: the cause, decided once, and what to do about it.

use std::fmt;
use std::io;

use lapin::ErrorKind;
use lapin::uri::{AMQPUri, SASLMechanism};
use rustls::{AlertDescription, CertificateError};

/// A failed attempt at a connection, or a lost connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("connect to RabbitMQ at {address}: {cause}")]
pub struct NotConnected {
    /// Host, port and virtual host, without user and password.
    pub address: String,
    /// Why it failed.
    pub cause: Cause,
}

/// Why a process is not connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The broker cannot be reached, or has closed the connection; with the reason. Waiting may cure it.
    Away(String),
    /// `AMQP_URL` or `broker.url` is not a valid URL.
    Url,
    /// A file with certificates or a key is not usable; the text names it.
    Files(String),
    /// The user or the password is wrong.
    Login {
        /// From the URL.
        user: String,
        /// The broker's words.
        said: String,
    },
    /// The broker knows no user for the certificate of this process.
    External {
        /// The broker's words.
        said: String,
    },
    /// The virtual host does not exist, or this user may not use it.
    Vhost {
        /// From the URL.
        user: String,
        /// From the URL.
        vhost: String,
        /// The broker's words.
        said: String,
    },
    /// The broker's certificate is not trusted; with the reason.
    Untrusted(String),
    /// The broker's certificate is for other names.
    WrongName {
        /// The name in the URL.
        host: String,
        /// The TLS library's words.
        said: String,
    },
    /// The broker wants a client certificate that it trusts; with its words.
    ClientCertificate(String),
    /// The URL asks for TLS, but the port does not speak it.
    NoTls,
    /// The port speaks TLS, but the URL does not ask for it.
    Tls,
    /// The program on this port does not speak AMQP 0-9-1.
    NoAmqp,
}

impl Cause {
    /// Whether the broker refuses, so that waiting cures nothing. It ends a process only at its start: in a process that was
    /// connected, a refusal may come from maintenance of the broker.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Away(_))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(what) => f.write_str(what),
            Self::Url => f.write_str("not a valid broker URL; expected amqp://user:password@host:5672/%2f, or amqps://…"),
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
                "the virtual host {vhost:?} does not exist, or the user {user:?} may not use it ({said}): correct the end of \
                 AMQP_URL or broker.url (`/%2f` is the default one), or add it: rabbitmqctl add_vhost, set_permissions"
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
                "the broker does not speak TLS on this port: write amqp://, or the port for TLS (5671 by default)",
            ),
            Self::Tls => f.write_str(
                "the broker speaks TLS on this port: write amqps://, or the port without TLS (5672 by default)",
            ),
            Self::NoAmqp => f.write_str("the program on this port does not speak AMQP 0-9-1: is it another program's port?"),
        }
    }
}

/// The TLS alerts that a broker sends to a client without the right certificate.
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

/// The cause of a failed attempt.
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
            // A connection limit, which may pass.
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
    // RabbitMQ closes the connection when it does not have the mechanism.
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

/// The broker's words, without lapin's around them.
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
            (vhost, PLAIN, "the virtual host \"shop\" does not exist"),
            (untrusted, PLAIN, "broker.ca_file"),
            (name, PLAIN, "not for \"broker\""),
            (nobody, PLAIN, "broker.client_cert_file"),
            (no_tls, PLAIN, "does not speak TLS"),
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
