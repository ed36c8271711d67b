//! Agents that work until the test lets them end, so that a test can act on running tasks.

use std::path::{Path, PathBuf};

use super::pool::task;
use super::{Pool, PoolFile, SOON, eventually};

/// Reports that it lives, by its process's id and start, and works until the file `go` exists.
const AGENT: &str = r#"
echo $$ $(cut -d " " -f 22 /proc/$$/stat) >>"$1/agents"
until [ -e "$1/go" ]; do sleep 0.05; done
echo "four" >>readme.txt
"#;

/// A pool whose agents wait for a file.
pub(crate) struct Bench {
    pub(crate) pool: Pool,
    signs: PathBuf,
}

impl Bench {
    /// With these programmers of the sample pool, and without a worker.
    pub(crate) async fn with(programmers: &[&str]) -> Self {
        Self::with_file(PoolFile::sample().only(programmers)).await
    }

    /// With this pool file, whose agent is replaced.
    pub(crate) async fn with_file(file: PoolFile) -> Self {
        let mut pool = Pool::set_up_shared(&file).await;
        let signs = pool.signs();
        let directory = signs.to_str().expect("a path in UTF-8");
        let file = file.command(&["/bin/sh", "-c", AGENT, "agent", directory]);
        pool.rewrite(&file);
        pool.start_dispatcher().await;
        Self { pool, signs }
    }

    /// Starts a worker with every programmer and waits until it starts the first task, which has
    /// this id; gives the worker.
    pub(crate) async fn begin(&mut self, id: &str) -> usize {
        let worker = self.pool.start_worker(&["--all"]);
        self.pool.all_consume().await;
        self.pool.api().submit(&task(id)).await;
        self.agents_started(1).await;
        worker
    }

    /// Lets the agents end.
    pub(crate) fn go(&self) {
        std::fs::write(self.signs.join("go"), "").expect("the sign");
    }

    /// The pids of the agents that were started, oldest first; 0 for one that has ended.
    pub(crate) fn agents(&self) -> Vec<u32> {
        let said = std::fs::read_to_string(self.signs.join("agents")).unwrap_or_default();
        let agents = said.lines().filter_map(|line| line.split_once(' '));
        agents
            .map(|(own, started)| pid_here(own, started).unwrap_or_default())
            .collect()
    }

    pub(crate) async fn agents_started(&self, count: usize) -> Vec<u32> {
        let what = format!("{count} agents have been started");
        eventually(&what, SOON, async || {
            Some(self.agents()).filter(|pids| pids.len() >= count)
        })
        .await
    }
}

/// The pid of a process, which may call itself by another one in a namespace of its own.
fn pid_here(own: &str, started: &str) -> Option<u32> {
    let pids = std::fs::read_dir("/proc").expect("processes").flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid: &u32| {
        let text =
            |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let (status, stat) = (text("status"), text("stat"));
        let innermost = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        innermost.and_then(|pids| pids.split_whitespace().last()) == Some(own)
            && stat.split(' ').nth(21) == Some(started)
    })
}

pub(crate) fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    Path::new(&format!("/proc/{pid}")).exists() && !status.contains("State:\tZ")
}
