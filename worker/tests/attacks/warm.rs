//! A fork server for the driver, started and asked as the worker does it.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use agent_sandbox::{Layers, Level, Plan, RunLimits, WarmRole, receive_bytes, send_files};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

pub(crate) const SOURCE: &str = include_str!("../../src/sandbox/warm/server.py");
const BOOT: &str = "import socket;control=socket.socket(fileno=3);\
    exec(compile(control.recv(1<<20),'<warm>','exec'),{'__name__':'warm','control':control})";
const MODULES: &[u8] =
    br#"["ctypes", "json", "multiprocessing", "socket", "struct", "tempfile", "traceback"]"#;

pub(crate) struct ForkServer {
    control: OwnedFd,
    line: Option<UnixStream>,
    helper: Child,
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("a pair of sockets")
}

impl ForkServer {
    /// Starts one with this helper, which runs as the user of the world.
    pub(crate) fn start(helper: Command, python: &str) -> Self {
        Self::start_changed(helper, python, SOURCE)
    }

    /// The same with another program for the server.
    pub(crate) fn start_changed(mut helper: Command, python: &str, source: &str) -> Self {
        let plan = Plan {
            layers: Layers {
                seccomp: false,
                ..Layers::all(Level::Strict, 0)
            },
            gateway_port: None,
            read: Vec::new(),
            write: Vec::new(),
            pinned: Vec::new(),
            hide: Vec::new(),
            directory: "/".into(),
            limits: RunLimits::default(),
            warm: Some(WarmRole::Server),
        };
        let order = serde_json::json!({ "plan": plan }).to_string();
        let (control, inside) = pair();
        let (mut line, helper_line) = UnixStream::pair().expect("a line");
        let (first, rest) = order.as_bytes().split_at(1);
        send_files(&line, first, &[inside.as_fd()]).expect("it is sent");
        line.write_all(rest).expect("the helper has room for it");
        let helper = helper
            .args(["sandbox-exec", "--order", &order.len().to_string(), "--"])
            .args([python, "-c", BOOT])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::from(OwnedFd::from(helper_line)))
            .spawn()
            .expect("the helper starts");
        drop(inside);
        let mut list = File::from(memfd_create("modules", MemfdFlags::CLOEXEC).expect("a file"));
        list.write_all(MODULES).expect("a list");
        send_files(&control, source.as_bytes(), &[]).expect("its program");
        send_files(&control, b"modules", &[list.as_fd()]).expect("its modules");
        let mut answer = [0; 1024];
        let (count, _) = receive_bytes(&control, &mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..count]);
        assert!(
            answer.contains("null"),
            "the fork server is ready: {answer}"
        );
        Self {
            control,
            line: Some(line),
            helper,
        }
    }

    /// Has it fork a child, and returns the socket to that child.
    pub(crate) fn fork(&self) -> OwnedFd {
        let (inside, outside) = pair();
        send_files(&self.control, b"run", &[inside.as_fd()]).expect("it is asked");
        outside
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        drop(self.line.take());
        let _ = self.helper.wait();
    }
}
