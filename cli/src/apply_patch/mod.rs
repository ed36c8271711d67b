//! `pool apply-patch`: applies the patch of a task to the repository of the current directory, with
//! git's three-way merge.

mod git;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use pool_api::format::counted;
use pool_api::tasks::{Stage, TaskView};
use pool_core::id::TaskId;
use pool_core::result::ResultMessage;
use serde::Serialize;

use crate::client::Client;
use crate::output::OutputArgs;
use crate::table::plain;
use git::UserGit;

/// The most names in a message.
const MOST_NAMES: usize = 5;
/// The most characters of a commit's first line.
const SUBJECT: usize = 72;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Runs `git apply --3way --index`: the change is in the working tree and staged. If lines were changed on both sides, git leaves\n\
    conflict marks in the files, and `git reset --hard` removes them. No hooks run: the patch may have changed them.\n\n\
    Exit status: 0 applied (--check: can be applied); 1 not applied, or with conflicts.\n\nExamples:\n  \
    pool apply-patch t-019b2c6de0c97d3a8f0c2b7f5e3a1d44 --check\n  \
    pool apply-patch t-019b2c6de0c97d3a8f0c2b7f5e3a1d44 --branch fix-parser --commit\n  \
    pool apply-patch t-019b2c6de0c97d3a8f0c2b7f5e3a1d44 -C ~/src/app"
)]
pub(super) struct ApplyPatchArgs {
    /// The id of a task
    #[arg(add = crate::completions::tasks())]
    id: TaskId,
    /// A directory of the repository
    #[arg(short = 'C', value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Change nothing; only say whether the patch can be applied
    #[arg(long, conflicts_with_all = ["branch", "commit"])]
    check: bool,
    /// Make this branch from the current commit, and apply the patch there
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Commit the change
    #[arg(long)]
    commit: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Applied {
    task_id: TaskId,
    repository: PathBuf,
    /// False with `--check`, and when the current commit has the change already.
    applied: bool,
    files: Vec<String>,
    branch: Option<String>,
    commit: Option<String>,
}

pub(super) async fn run(args: ApplyPatchArgs) -> anyhow::Result<ExitCode> {
    let git = UserGit::of(&args.directory)?;
    let client = args.output.client()?;
    let view: TaskView = client.get(&format!("/tasks/{}", args.id)).await?;
    let patch = patch_of(&client, &view).await?;
    clean(&git)?;
    for warning in warnings(&git, &view, &patch)? {
        eprintln!("warning: {warning}");
    }
    let files = files(&git, &patch)?;
    nothing_in_the_way(&git, &files)?;
    if args.check {
        try_out(&git, &view, &patch)?;
    } else {
        if let Some(branch) = &args.branch {
            git.output(["switch", "--quiet", "--create", branch], "")?;
        }
        apply(&git, &view, &patch, args.branch.as_deref())?;
    }
    let is_new = args.check || has_staged(&git)?;
    if !is_new {
        eprintln!("the current commit has this change already; nothing was changed");
    }
    let commit = match args.commit && is_new {
        true => Some(commit(&git, &view)?),
        false => None,
    };
    let applied = Applied {
        task_id: args.id,
        repository: git.top,
        applied: !args.check && is_new,
        files,
        branch: args.branch,
        commit,
    };
    args.output.print(&applied, |applied| text(applied, is_new))
}

fn has_staged(git: &UserGit) -> anyhow::Result<bool> {
    let staged = git.output(["diff", "--cached", "--name-only"], "")?;
    Ok(!staged.is_empty())
}

/// The patch as the dispatcher has it. A patch that is too large for a result is a commit.
async fn patch_of(client: &Client, view: &TaskView) -> anyhow::Result<String> {
    if let Some(result) = view.result.as_ref().filter(|result| result.patch_truncated) {
        bail!("{}", too_large(view, result));
    }
    client.text(&format!("/tasks/{}/patch", view.id)).await
}

fn too_large(view: &TaskView, result: &ResultMessage) -> String {
    let what = format!("the patch of task {} is too large for a result", view.id);
    let commit = result
        .commit
        .as_ref()
        .map(|commit| format!("commit {commit}"));
    let branch = result
        .branch
        .as_ref()
        .map(|branch| format!("branch {branch}"));
    let named: Vec<String> = [branch, commit].into_iter().flatten().collect();
    match (&result.commit_at, &result.branch, &result.commit) {
        (Some(place), branch, Some(commit)) => format!(
            "{what}. Its change is {} in {place}; to apply it, run:\n  git fetch {place} {} && git cherry-pick {commit}",
            named.join(", "),
            branch.as_ref().unwrap_or(commit)
        ),
        (_, _, _) if named.is_empty() => format!("{what}, and no commit was kept"),
        (_, _, _) => format!(
            "{what}. Its change is {} of its repository",
            named.join(", ")
        ),
    }
}

fn clean(git: &UserGit) -> anyhow::Result<()> {
    let status = git.output(
        [
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--no-renames",
        ],
        "",
    )?;
    let changed: Vec<String> = status
        .lines()
        .filter_map(|line| line.get(3..))
        .map(str::to_owned)
        .collect();
    if !changed.is_empty() {
        bail!(
            "{} has changes that are not committed ({}); commit them, or put them away with `git stash`",
            git.top.display(),
            few(&changed)
        );
    }
    Ok(())
}

/// Warnings before the patch is applied.
fn warnings(git: &UserGit, view: &TaskView, patch: &str) -> anyhow::Result<Vec<String>> {
    let mut warnings = Vec::new();
    if view.status != Stage::Succeeded {
        warnings.push(format!(
            "task {} is {}: its change did not pass, or was not judged",
            view.id, view.status
        ));
    }
    let bases = bases(patch);
    if bases.is_empty() {
        return Ok(warnings);
    }
    let ids: String = bases.iter().map(|blob| format!("{blob}\n")).collect();
    let known = git.output(["cat-file", "--batch-check=%(objectname)"], &ids)?;
    let missing = known
        .lines()
        .filter(|line| line.ends_with(" missing"))
        .count();
    let head = git.run(["ls-tree", "-r", "HEAD"], "")?;
    let blob = |line| str::split_whitespace(line).nth(2);
    let here: BTreeSet<&str> = head.printed.lines().filter_map(blob).collect();
    let other = bases.iter().filter(|blob| !here.contains(**blob)).count();
    let all = counted(bases.len(), "file", "files");
    if missing > 0 {
        warnings.push(format!(
            "{missing} of {all} that the patch changes are not in this repository as the task found them: fetch the task's base \
             commit, or look whether this is the task's repository"
        ));
    } else if other > 0 {
        warnings.push(format!(
            "{other} of {all} that the patch changes differ from the task's base commit; git merges the changes"
        ));
    }
    Ok(warnings)
}

/// The blobs that the patch changes. The worker writes whole object names.
fn bases(patch: &str) -> BTreeSet<&str> {
    let old = patch
        .lines()
        .filter_map(|line| line.strip_prefix("index ")?.split_once(".."))
        .map(|(old, _)| old);
    old.filter(|old| {
        let is_hash = old.len() >= 40 && old.chars().all(|digit| digit.is_ascii_hexdigit());
        is_hash && old.chars().any(|digit| digit != '0')
    })
    .collect()
}

fn files(git: &UserGit, patch: &str) -> anyhow::Result<Vec<String>> {
    let listed = git.output(["apply", "--numstat", "-z"], patch)?;
    let name = |entry: &str| entry.splitn(3, '\t').nth(2).map(str::to_owned);
    Ok(listed.split('\0').filter_map(name).collect())
}

/// Git looks at such files only when it writes the change.
fn nothing_in_the_way(git: &UserGit, files: &[String]) -> anyhow::Result<()> {
    let tracked = git.output(["ls-files", "-z"], "")?;
    let tracked: BTreeSet<&str> = tracked.split('\0').collect();
    let untracked = |file: &&String| {
        !tracked.contains(file.as_str()) && git.top.join(file).symlink_metadata().is_ok()
    };
    let untracked: Vec<String> = files.iter().filter(untracked).cloned().collect();
    if !untracked.is_empty() {
        bail!(
            "{} has files that git does not know, and that the patch would write ({}); move them away",
            git.top.display(),
            few(&untracked)
        );
    }
    Ok(())
}

/// Tries the patch on a copy of the index.
fn try_out(git: &UserGit, view: &TaskView, patch: &str) -> anyhow::Result<()> {
    let index = tempfile_index(git)?;
    let ended = git.with_index(&index, ["apply", "--3way", "--cached"], patch);
    // The copy is of no use any more; a leftover does no harm.
    let _ = std::fs::remove_file(&index);
    let ended = ended?;
    if ended.good {
        return Ok(());
    }
    bail!(
        "the patch of task {} cannot be applied in {} without conflicts:\n{}",
        view.id,
        git.top.display(),
        ended.said
    )
}

/// A copy of the index beside it.
fn tempfile_index(git: &UserGit) -> anyhow::Result<PathBuf> {
    let path = git.output(["rev-parse", "--git-path", "index"], "")?;
    let index = git.top.join(path.trim_end_matches('\n'));
    let copy = index.with_file_name(format!("index.pool-{}", std::process::id()));
    if index.exists() {
        std::fs::copy(&index, &copy)?;
    }
    Ok(copy)
}

fn apply(git: &UserGit, view: &TaskView, patch: &str, branch: Option<&str>) -> anyhow::Result<()> {
    let ended = git.run(["apply", "--3way", "--index"], patch)?;
    if ended.good {
        return Ok(());
    }
    let unmerged = git.output(["diff", "--name-only", "--diff-filter=U"], "")?;
    let unmerged: Vec<String> = unmerged.lines().map(str::to_owned).collect();
    if unmerged.is_empty() {
        if let Some(branch) = branch {
            git.output(["switch", "--quiet", "-"], "")?;
            git.output(["branch", "--quiet", "-D", branch], "")?;
        }
        bail!(
            "the patch of task {} cannot be applied in {}; nothing was changed:\n{}",
            view.id,
            git.top.display(),
            ended.said
        );
    }
    let (place, back) = match branch {
        Some(branch) => (
            format!("{}, branch {branch}", git.top.display()),
            " and `git switch -`",
        ),
        None => (git.top.display().to_string(), ""),
    };
    bail!(
        "the patch of task {} is applied in {place}, with conflicts in {}. Resolve them and run `git add`, or undo everything with `git reset --hard`{back}",
        view.id,
        few(&unmerged)
    )
}

/// Commits the index; the message names the task.
fn commit(git: &UserGit, view: &TaskView) -> anyhow::Result<String> {
    git.output(["commit", "--quiet", "--file", "-"], &message(view))
        .context("the patch is applied and staged, but not committed")?;
    let commit = git.output(["rev-parse", "HEAD"], "")?;
    Ok(commit.trim().to_owned())
}

fn message(view: &TaskView) -> String {
    let instruction = view.task.as_ref().map(|task| task.instruction.as_str());
    let first = instruction
        .unwrap_or(&view.summary)
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty());
    let first = first.unwrap_or("Apply the patch of a task");
    let subject = match first.char_indices().nth(SUBJECT) {
        Some((cut, _)) => first.get(..cut).unwrap_or(first),
        None => first,
    };
    format!("{subject}\n\nPool-Task: {}\n", view.id)
}

fn few(names: &[String]) -> String {
    let shown = names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>();
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn text(applied: &Applied, is_new: bool) -> String {
    let what = match (applied.applied, is_new) {
        (true, _) => "is applied in",
        (false, true) => "can be applied in",
        (false, false) => "is already in",
    };
    let branch = applied
        .branch
        .as_ref()
        .map(|branch| format!(", branch {branch}"))
        .unwrap_or_default();
    let commit = applied
        .commit
        .as_ref()
        .map(|commit| format!(", commit {commit}"))
        .unwrap_or_default();
    // The names of files are the agent's.
    plain(&format!(
        "the patch of task {} {what} {}{branch}{commit}: {}\n",
        applied.task_id,
        applied.repository.display(),
        few(&applied.files)
    ))
}

#[cfg(test)]
mod tests;
