//! Any AMQP client can publish a task and read its result. The test runs the example of the guide
//! as it stands there.

use std::process::Command;

use crate::support::machine::checkout;
use crate::support::process::Running;
use crate::support::{Pool, PoolFile, Repository};

const PAGE: &str = "docs/guide/submitting.md";
const MARK: &str = "<!-- example: pika -->";

/// The first block of Python after the mark.
fn example() -> String {
    let page = std::fs::read_to_string(checkout().join(PAGE)).expect(PAGE);
    let (_, after) = page
        .split_once(MARK)
        .unwrap_or_else(|| panic!("{PAGE} has the mark {MARK}"));
    let (_, code) = after
        .split_once("```python\n")
        .expect("a block of Python after the mark");
    code.split_once("```")
        .expect("the end of the block")
        .0
        .to_owned()
}

/// A Python that has pika.
pub(super) fn python() -> String {
    let python =
        std::env::var("POOL_TEST_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".to_owned());
    let has_pika = Command::new(&python)
        .args(["-c", "import pika"])
        .output()
        .is_ok_and(|done| done.status.success());
    assert!(
        has_pika,
        "{python} has no pika: install python3-pika, or set POOL_TEST_PYTHON to a Python that has it"
    );
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_of_the_guide_publishes_a_task_and_prints_its_result() {
    let agent = ["/bin/sh", "-c", "echo '# changed' >>README.md"];
    let pool = Pool::start(&PoolFile::sample().command(&agent)).await;
    Repository::sample(&pool.repository("sample"));
    let mut command = Command::new(python());
    command
        .args(["-c", &example()])
        .env("AMQP_URL", pool.amqp_url());
    let mut example = Running::start("example", pool.path(), &command);
    let status = example.ended().await;
    let said = example.log();
    assert!(status.success(), "the example ends with status 0: {said}");
    assert!(
        said.contains("succeeded"),
        "the example prints the status: {said}"
    );
    assert!(
        said.contains("+# changed"),
        "the example prints the patch: {said}"
    );
}
