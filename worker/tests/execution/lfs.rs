//! Repositories that keep files in git LFS: a worktree has only the pointers.

use serde_json::json;

use crate::repo::Bench;
use crate::rig::Rig;

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n";

/// A repository whose directory `data` has these attributes.
fn repository(attributes: &str) -> Bench {
    let bench = Bench::new();
    bench.write("data/.gitattributes", attributes);
    bench.write("data/model.bin", POINTER);
    bench.commit("data");
    bench
}

#[tokio::test]
async fn a_failed_attempt_tells_that_files_of_git_lfs_are_only_pointers() {
    let tracked = "*.bin filter=lfs diff=lfs merge=lfs -text\n";
    for (attributes, script, is_told) in [
        (tracked, "head -c 7 data/model.bin; exit 1", true),
        (tracked, "echo fixed >calc.py", false),
        ("# *.bin filter=lfs\n", "exit 1", false),
        ("*.bin -text\n", "exit 1", false),
    ] {
        let rig = Rig::start(repository(attributes), script).await;
        let result = rig.outcome(json!({})).await;
        let hints = &result.sandbox.hints;
        let told = hints.iter().any(|hint| hint.contains("git LFS"));
        assert_eq!(told, is_told, "{attributes:?}, {script:?}: {result:?}");
    }
}
