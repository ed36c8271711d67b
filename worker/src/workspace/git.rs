//! The only way in which the worker runs git.
//!
//! Repositories belong to other people, and agents write into worktrees, so nothing from a
//! repository may run. Every call names its git directory, has an empty environment of its own, and
//! reads no system or user configuration. On the command line, which wins over the repository's
//! configuration, it switches off everything that git could start.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::directory::Directory;
use super::process_group::GitProcessGroup;
use crate::sandbox::LESS_IMPORTANT;

/// The time-out of commands that work on local files only.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(120);
/// The limit of git's output: more than any list of paths needs. Patches have a lower limit.
const OUTPUT_LIMIT: usize = 256 * 1024 * 1024;
const STDERR_LIMIT: usize = 64 * 1024;

/// Settings for every command.
const SETTINGS: [&str; 27] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.pager=cat",
    "core.editor=false",
    "core.askPass=",
    "core.gitProxy=",
    "core.alternateRefsCommand=true",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.autocrlf=false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "core.logAllRefUpdates=false",
    "core.packedRefsTimeout=30000",
    "core.filesRefLockTimeout=10000",
    "credential.helper=",
    "diff.external=",
    "diff.ignoreSubmodules=all",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "safe.directory=*",
    "protocol.allow=never",
    "advice.detachedHead=false",
    "i18n.commitEncoding=UTF-8",
];

/// More settings for commands on remotes: https and ssh, nothing else.
const REMOTE_SETTINGS: [&str; 3] = [
    "protocol.https.allow=always",
    "protocol.ssh.allow=always",
    "http.followRedirects=initial",
];

#[derive(Debug, thiserror::Error)]
pub(super) enum GitError {
    #[error("cannot run git: {0}")]
    Start(#[from] io::Error),
    #[error("git {what} failed: {said}")]
    Failed {
        what: String,
        said: String,
        status: ExitStatus,
    },
    #[error("git {what} took longer than {seconds} s")]
    TimedOut { what: String, seconds: u64 },
    #[error("git {what} printed more than {limit} bytes")]
    TooMuch { what: String, limit: usize },
}

/// The environment that git gets from the worker.
#[derive(Debug, Clone)]
pub(super) struct Git {
    path: OsString,
    /// Only for commands on remotes: proxies, certificates, the ssh agent, and the home directory
    /// with its `.netrc`.
    remote_env: Vec<(OsString, OsString)>,
}

impl Git {
    /// `path` is where git and ssh are looked for. The other variables come from `env`.
    pub(super) fn new(path: OsString, env: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        const REMOTE: [&str; 10] = [
            "HOME",
            "SSH_AUTH_SOCK",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
            "NO_PROXY",
            "no_proxy",
        ];
        let remote_env = env
            .into_iter()
            .filter(|(name, _)| REMOTE.iter().any(|known| name == known))
            .collect();
        Self { path, remote_env }
    }

    /// A command on this git directory.
    pub(super) fn at(&self, git_dir: &Path) -> GitCommand<'_> {
        GitCommand {
            git: self,
            options: vec![arg("--git-dir=", git_dir)],
            checkout: None,
            env: Vec::new(),
            input: GitInput::Bytes(Vec::new()),
            timeout: LOCAL_TIMEOUT,
            output_limit: OUTPUT_LIMIT,
            remote: false,
        }
    }
}

fn arg(option: &str, value: &Path) -> OsString {
    let mut arg = OsString::from(option);
    arg.push(value);
    arg
}

/// The standard input of git.
#[derive(Debug)]
enum GitInput {
    Bytes(Vec<u8>),
    File(File),
}

/// A git command that is being put together.
#[derive(Debug)]
pub(super) struct GitCommand<'a> {
    git: &'a Git,
    options: Vec<OsString>,
    checkout: Option<Checkout<'a>>,
    env: Vec<(OsString, OsString)>,
    input: GitInput,
    timeout: Duration,
    output_limit: usize,
    remote: bool,
}

/// The directory with the files for a git command, below an open one.
#[derive(Debug)]
struct Checkout<'a> {
    root: &'a Directory,
    path: PathBuf,
}

impl<'a> GitCommand<'a> {
    /// Works on the files in the directory at `path` below `root`. Git starts in that directory
    /// itself, so it works on no other one that has taken the place.
    pub(super) fn checkout(mut self, root: &'a Directory, path: PathBuf) -> Self {
        self.options.push("--work-tree=.".into());
        self.checkout = Some(Checkout { root, path });
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Adds a setting that wins over the ones above.
    pub(super) fn set(mut self, setting: &str) -> Self {
        self.options.extend(["-c".into(), setting.into()]);
        self
    }

    pub(super) fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = GitInput::Bytes(bytes);
        self
    }

    pub(super) fn input_file(mut self, file: File) -> Self {
        self.input = GitInput::File(file);
        self
    }

    pub(super) fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Lets the command talk to a remote, with this time-out.
    pub(super) fn remote(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self.remote = true;
        self
    }

    /// Runs the command and returns its standard output.
    ///
    /// # Errors
    /// [`GitError`], with git's message, if git does not exit with 0 in time.
    pub(super) async fn run<S: AsRef<OsStr>>(mut self, args: &[S]) -> Result<Vec<u8>, GitError> {
        let what = args
            .first()
            .map(|word| word.as_ref().to_string_lossy().into_owned())
            .unwrap_or_default();
        let checkout = self.checkout.take();
        let checkout = checkout.map(|Checkout { root, path }| root.descend(&path));
        let checkout = checkout.transpose()?;
        let mut command = self.command(args);
        if let Some(checkout) = &checkout {
            command.current_dir(checkout.handle());
        }
        let input = match std::mem::replace(&mut self.input, GitInput::Bytes(Vec::new())) {
            GitInput::Bytes(bytes) => bytes,
            GitInput::File(file) => {
                command.stdin(file);
                Vec::new()
            }
        };
        let mut group = GitProcessGroup::new(command.spawn()?);
        if let Some(pid) = group
            .id()
            .and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()))
        {
            // Git may have ended already. If the kernel refuses, git runs at normal priority.
            let _ = rustix::process::setpriority_process(Some(pid), LESS_IMPORTANT);
        }
        let seconds = self.timeout.as_secs();
        let Ok(finished) = timeout(
            self.timeout,
            communicate(group.git(), &input, self.output_limit),
        )
        .await
        else {
            group.end().await;
            return Err(GitError::TimedOut { what, seconds });
        };
        let Some((status, output, said)) = finished? else {
            group.end().await;
            return Err(GitError::TooMuch {
                what,
                limit: self.output_limit,
            });
        };
        if status.success() {
            return Ok(output);
        }
        Err(GitError::Failed {
            what,
            said: shorten(&said),
            status,
        })
    }

    /// Like [`Self::run`], for commands that print one line of text.
    pub(super) async fn line<S: AsRef<OsStr>>(self, args: &[S]) -> Result<String, GitError> {
        Ok(String::from_utf8_lossy(&self.run(args).await?)
            .trim()
            .to_owned())
    }

    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new("git");
        let settings = SETTINGS.iter().chain(if self.remote {
            &REMOTE_SETTINGS[..]
        } else {
            &[]
        });
        for setting in settings {
            command.args(["-c", setting]);
        }
        command.args(&self.options).args(args);
        command
            .env_clear()
            .env("PATH", &self.git.path)
            .env("LC_ALL", "C")
            .env("HOME", "/nonexistent");
        for (name, value) in [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            (
                "GIT_SSH_COMMAND",
                "ssh -o BatchMode=yes -o ConnectTimeout=20",
            ),
        ] {
            command.env(name, value);
        }
        if self.remote {
            command.envs(
                self.git
                    .remote_env
                    .iter()
                    .map(|(name, value)| (name, value)),
            );
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }
}

type Said = (ExitStatus, Vec<u8>, Vec<u8>);

/// Writes, reads and waits at once, since each can block the others. None: too much output.
async fn communicate(
    git: Option<&mut Child>,
    input: &[u8],
    limit: usize,
) -> io::Result<Option<Said>> {
    let Some(child) = git else { return Ok(None) };
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // If git does not read its input to the end, its exit status says why.
            let _ = stdin.write_all(input).await;
        }
    };
    let ((), output, said) = tokio::join!(write, read(stdout, limit), read_end(stderr));
    let (output, said) = (output?, said?);
    if output.len() > limit {
        return Ok(None);
    }
    Ok(Some((child.wait().await?, output, said)))
}

/// Reads at most one byte more than `limit`. Then it closes the pipe, which ends the writer.
async fn read(from: Option<impl AsyncRead + Unpin>, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(limit as u64 + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Reads everything and keeps the end: git must not fail because of its own warnings.
async fn read_end(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        while from.read_buf(&mut bytes).await? > 0 {
            if bytes.len() > 2 * STDERR_LIMIT {
                bytes.drain(..bytes.len() - STDERR_LIMIT);
            }
        }
    }
    Ok(bytes)
}

/// The last lines of a message. They say what was wrong; the first ones are often only hints.
fn shorten(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = lines[lines.len().saturating_sub(4)..].join("; ");
    if last.is_empty() {
        "it said nothing".to_owned()
    } else {
        last.chars().take(600).collect()
    }
}

/// A path as git prints it with `-z`.
pub(super) fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(OsStr::from_bytes(bytes))
}
