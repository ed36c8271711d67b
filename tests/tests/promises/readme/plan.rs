//! Says how each example of the README is tested. A new example needs an entry here.

/// How a command is tested.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// As it stands there, in bash: status 0.
    AsItStands,
    /// With values for the placeholders, or after the commands that it needs first.
    Lines(&'static [&'static str]),
    /// By the test itself, which checks more than its status.
    Closely,
    /// Not run here, with the reason.
    NotHere(&'static str),
}

use How::{AsItStands, Closely, Lines, NotHere};

const BY_COMPOSE: How = NotHere("scripts/test-compose, which needs Docker, is this command's test");
const NOT_OURS: How = NotHere("a program of another project, for real LLMs");

/// The commands of blocks, in the order of the page.
pub(super) const IN_BLOCKS: &[(&str, How)] = &[
    ("scripts/quickstart", Closely),
    ("scripts/test", NotHere("it runs this test")),
    ("export $(scripts/local-pool env)", Closely),
    ("export PATH=\"$PWD/target/release:$PATH\"", Closely),
    (
        "curl -s \"$POOL_URL/tasks\" -H 'content-type: application/json' -d @task.json",
        Closely,
    ),
    (
        "curl -s \"$POOL_URL/tasks/t-01a2090547ec74cf9ee3dc543c64f42b\"",
        AsItStands,
    ),
    (
        "curl -s \"$POOL_URL/tasks/t-01a2090547ec74cf9ee3dc543c64f42b/patch\" | git apply",
        Closely,
    ),
    (
        "curl -s \"$POOL_URL/tasks\" -H 'content-type: application/json' -d '[\n    \
         {\"instruction\": \"x\", \"repository\": \"sample\"},\n    \
         {\"instruction\": \"x\", \"repository\": \"sample\", \"capabilities\": [\"fast\", \"quantum\"]}]'",
        Closely,
    ),
    (
        "pool submit --repository sample --capability deepseek --file ledger/text.py \\\n    \
         --instruction 'Give every public function of ledger/text.py a docstring' \\\n    \
         --check 'python3 -m unittest tests.test_text' --wait",
        Closely,
    ),
    ("pool submit config/trial/tasks.yaml --dry-run", Closely),
    (
        "pool submit config/trial/tasks.yaml --wait --label run_id=monday",
        AsItStands,
    ),
    ("pool check --pool my-pool.yaml", Closely),
    (
        "export ANTHROPIC_API_KEY=… OPENAI_API_KEY=… DEEPSEEK_API_KEY=…",
        AsItStands,
    ),
    ("pool check --llms", AsItStands),
    (
        "scripts/quickstart --pool config/pool.yaml",
        NotHere("real LLMs cost money; scripts/local-pool takes the same file below"),
    ),
    ("scripts/local-pool start --pool config/pool.yaml", Closely),
    ("pool budget", Closely),
    ("pool budget set --limit 60 --today", AsItStands),
    (
        "export AMQP_URL=amqp://user:password@broker.example:5672/%2f",
        NotHere("the name of the reader's own broker"),
    ),
    ("dispatcher serve --pool pool.yaml", Closely),
    ("worker run --pool pool.yaml --all", Closely),
    ("worker run --pool pool.yaml --programmers 001,002", Closely),
    ("PROGRAMMER_ID=003 worker run --pool pool.yaml", Closely),
    ("worker run --pool pool.yaml --any 2", Closely),
];

/// The commands in lines. `$DONE` is a finished task, `$WAITS` one that waits while the pool is
/// paused, `$DEAD` a dead letter.
pub(super) const IN_LINES: &[(&str, How)] = &[
    ("scripts/quickstart --chaos", NotHere("promises quickstart")),
    ("scripts/test", NotHere("it runs this test")),
    (
        "scripts/test -p pool-shared routing",
        NotHere("it would run tests within a test"),
    ),
    (
        "scripts/local-pool start | stop | restart | status",
        NotHere("promises background_pool"),
    ),
    ("scripts/local-pool env", AsItStands),
    ("scripts/local-pool", NotHere("its name")),
    (
        "scripts/test-compose",
        NotHere("it needs Docker and half an hour"),
    ),
    ("scripts/bench", NotHere("it measures for five minutes")),
    ("ollama serve", NOT_OURS),
    ("ollama pull qwen2.5-coder:7b-instruct", NOT_OURS),
    ("docker-compose up --build -d", BY_COMPOSE),
    ("docker-compose run --rm setup show", BY_COMPOSE),
    (
        "docker-compose --env-file config/trial.env --profile trial up --build -d",
        BY_COMPOSE,
    ),
    (
        "docker-compose exec dispatcher pool submit --wait config/trial/tasks.yaml",
        BY_COMPOSE,
    ),
    ("pool check", AsItStands),
    (
        "dispatcher serve",
        NotHere("with its pool file, in a block"),
    ),
    ("worker run", NotHere("with its pool file, in a block")),
    ("dispatcher topology", AsItStands),
    (
        "pool check [--llms]",
        Lines(&["pool check", "pool check --llms"]),
    ),
    ("pool submit", NotHere("with what it submits, in blocks")),
    (
        "pool status",
        Lines(&["pool status", "pool status --wait-ready 30"]),
    ),
    ("pool submit", NotHere("with its tasks, in blocks")),
    (
        "pool tasks",
        Lines(&[
            "pool tasks",
            "pool tasks --status queued --label run_id=monday --programmer 001 --text median --limit 5",
        ]),
    ),
    ("pool show ID", Lines(&["pool show \"$DONE\""])),
    (
        "pool patch ID",
        Lines(&["pool patch \"$DONE\" | grep '^diff --git'"]),
    ),
    ("pool why ID", Lines(&["pool why \"$DONE\""])),
    (
        "pool pause",
        Lines(&[
            "pool pause --programmer 001",
            "pool pause --route fast",
            "pool pause --all",
            "pool pauses | grep fast",
            "pool resume --programmer 001",
            "pool resume --route fast",
            // The next task must wait.
            "pool submit --repository sample --instruction 'x y' --id \"$WAITS\"",
        ]),
    ),
    (
        "pool drain --programmer ID",
        Lines(&[
            "pool resume --all",
            "pool drain --programmer 010",
            "pool resume --programmer 010",
        ]),
    ),
    (
        "pool dead list|show|retry|drop",
        Lines(&[
            "pool dead list",
            "pool dead show \"$DEAD\"",
            "pool dead retry --all || [ $? -eq 1 ]",
            "pool dead drop \"$DEAD\"",
            "pool dead drop --all",
        ]),
    ),
    (
        "pool report",
        Lines(&[
            "pool report",
            "pool report --format csv",
            "pool report --format html | grep '<html'",
        ]),
    ),
    ("pool report --since 7d --by llm", AsItStands),
    (
        "pool schema task|result|pool",
        Lines(&["pool schema task", "pool schema result", "pool schema pool"]),
    ),
    (
        "pool completions bash|zsh|fish",
        Lines(&[
            "pool completions bash",
            "pool completions zsh",
            "pool completions fish",
        ]),
    ),
    ("worker completions …", Lines(&["worker completions bash"])),
    ("source <(pool completions bash)", AsItStands),
    ("worker health", Closely),
    (
        "git branch --list 'pool/*'",
        Lines(&["git -C .pool/sample branch --list 'pool/*' | grep pool/"]),
    ),
];

/// Blocks without commands: the language, words in it, and how the tests use it.
pub(super) const OTHER_BLOCKS: &[(&str, &str, &str)] = &[
    ("text", "any AMQP client", "a picture"),
    (
        "text",
        "BREAKER OPEN",
        "promises quickstart looks for these words",
    ),
    (
        "json",
        "\"instruction\": \"Write the function median",
        "task.json of the requests",
    ),
    (
        "json",
        "\"task_id\"",
        "compared with the result of that task",
    ),
    (
        "python",
        "pika.BlockingConnection",
        "run here, and by promises third_party",
    ),
    ("yaml", "programmers:", "a pool file that is checked"),
];

/// Requests that need an object first, and the command that covers them.
pub(super) const NOT_SENT: &[(&str, &str, &str)] = &[
    ("DELETE", "/dead/{id}", "pool dead drop ID"),
    ("POST", "/dead/{id}/retry", "promises dead_letters"),
];
