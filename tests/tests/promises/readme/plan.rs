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
    ("export $(scripts/pool env)", Closely),
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
        "dispatcher submit --repository sample --capability deepseek --file ledger/text.py \\\n    \
         --instruction 'Give every public function of ledger/text.py a docstring' \\\n    \
         --check 'python3 -m unittest tests.test_text' --wait",
        Closely,
    ),
    (
        "dispatcher submit config/trial/tasks.yaml --dry-run",
        Closely,
    ),
    (
        "dispatcher submit config/trial/tasks.yaml --wait --label run_id=monday",
        AsItStands,
    ),
    ("dispatcher check --pool my-pool.yaml", Closely),
    (
        "export ANTHROPIC_API_KEY=… OPENAI_API_KEY=… DEEPSEEK_API_KEY=…",
        AsItStands,
    ),
    ("dispatcher check --llms", AsItStands),
    (
        "scripts/quickstart --pool config/pool.yaml",
        NotHere("real LLMs cost money; scripts/pool takes the same file below"),
    ),
    ("scripts/pool start --pool config/pool.yaml", Closely),
    ("dispatcher budget", Closely),
    ("dispatcher budget set --limit 60 --today", AsItStands),
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
        "scripts/pool start | stop | restart | status",
        NotHere("promises background_pool"),
    ),
    ("scripts/pool env", AsItStands),
    ("scripts/pool", NotHere("its name")),
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
        "docker-compose exec dispatcher dispatcher submit --wait config/trial/tasks.yaml",
        BY_COMPOSE,
    ),
    ("dispatcher check", AsItStands),
    (
        "dispatcher serve",
        NotHere("with its pool file, in a block"),
    ),
    ("worker run", NotHere("with its pool file, in a block")),
    ("dispatcher topology", AsItStands),
    (
        "dispatcher check [--llms]",
        Lines(&["dispatcher check", "dispatcher check --llms"]),
    ),
    ("dispatcher submit", NotHere("with its tasks, in blocks")),
    (
        "dispatcher status",
        Lines(&["dispatcher status", "dispatcher status --wait-ready 30"]),
    ),
    (
        "dispatcher watch",
        Lines(&["timeout 60 dispatcher watch --task \"$DONE\""]),
    ),
    ("dispatcher budget", AsItStands),
    (
        "dispatcher tasks",
        Lines(&[
            "dispatcher tasks",
            "dispatcher tasks --status queued --label run_id=monday --programmer 001 --text median --limit 5",
        ]),
    ),
    ("dispatcher show ID", Lines(&["dispatcher show \"$DONE\""])),
    (
        "dispatcher patch ID",
        Lines(&["dispatcher patch \"$DONE\" | grep '^diff --git'"]),
    ),
    ("dispatcher why ID", Lines(&["dispatcher why \"$DONE\""])),
    (
        "dispatcher pause",
        Lines(&[
            "dispatcher pause --programmer 001",
            "dispatcher pause --route fast",
            "dispatcher pause --all",
            "dispatcher pauses | grep fast",
            "dispatcher resume --programmer 001",
            "dispatcher resume --route fast",
            // The next task must wait.
            "dispatcher submit --repository sample --instruction 'x y' --id \"$WAITS\"",
        ]),
    ),
    (
        "dispatcher requeue ID",
        Lines(&["dispatcher requeue \"$WAITS\""]),
    ),
    (
        "dispatcher cancel ID…",
        Lines(&["dispatcher cancel \"$WAITS\""]),
    ),
    (
        "dispatcher retry ID…",
        Lines(&[
            "dispatcher retry \"$WAITS\"",
            "dispatcher retry --failed --label run_id=monday",
        ]),
    ),
    (
        "dispatcher drain --programmer ID",
        Lines(&[
            "dispatcher resume --all",
            "dispatcher drain --programmer 010",
            "dispatcher resume --programmer 010",
        ]),
    ),
    (
        "dispatcher dead list|show|retry|drop",
        Lines(&[
            "dispatcher dead list",
            "dispatcher dead show \"$DEAD\"",
            "dispatcher dead retry --all || [ $? -eq 1 ]",
            "dispatcher dead drop \"$DEAD\"",
            "dispatcher dead drop --all",
        ]),
    ),
    (
        "dispatcher report",
        Lines(&[
            "dispatcher report",
            "dispatcher report --format csv",
            "dispatcher report --format html | grep '<html'",
        ]),
    ),
    ("dispatcher report --since 7d --by llm", AsItStands),
    (
        "dispatcher schema task|result|pool",
        Lines(&[
            "dispatcher schema task",
            "dispatcher schema result",
            "dispatcher schema pool",
        ]),
    ),
    (
        "dispatcher completions bash|zsh|fish",
        Lines(&[
            "dispatcher completions bash",
            "dispatcher completions zsh",
            "dispatcher completions fish",
        ]),
    ),
    ("worker completions …", Lines(&["worker completions bash"])),
    ("source <(dispatcher completions bash)", AsItStands),
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
    ("DELETE", "/dead/{id}", "dispatcher dead drop ID"),
    ("POST", "/dead/{id}/retry", "promises dead_letters"),
];
