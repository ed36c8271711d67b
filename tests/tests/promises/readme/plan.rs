//! Says how each example of the pages is tested. A new example needs an entry here.

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

/// The commands of blocks, in the order of the pages.
pub(super) const IN_BLOCKS: &[(&str, How)] = &[
    // README.md
    ("scripts/quickstart", Closely),
    ("scripts/test", NotHere("it runs this test")),
    ("export $(scripts/local-pool env)", Closely),
    ("export PATH=\"$PWD/target/release:$PATH\"", Closely),
    ("pool submit task.json --wait", Closely),
    ("pool show t-01a2090547ec74cf9ee3dc543c64f42b", Closely),
    (
        "pool patch t-01a2090547ec74cf9ee3dc543c64f42b | git apply",
        Closely,
    ),
    // guide/first-steps.md
    ("export $(scripts/local-pool env)", Closely),
    ("export PATH=\"$PWD/target/release:$PATH\"", Closely),
    ("pool status", AsItStands),
    ("pool tasks", AsItStands),
    // guide/submitting.md
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
    // guide/pool-file.md
    ("pool check --pool my-pool.yaml", Closely),
    // guide/llms.md
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
    // guide/money.md
    ("pool prices", AsItStands),
    ("pool prices --diff", AsItStands),
    ("pool budget", Closely),
    ("pool budget set --limit 60 --today", AsItStands),
    // operate/running.md
    (
        "export AMQP_URL=amqp://user:password@broker.example:5672/%2f",
        NotHere("the name of the reader's own broker"),
    ),
    ("dispatcher serve --pool pool.yaml", Closely),
    ("worker run --pool pool.yaml --all", Closely),
    ("worker run --pool pool.yaml --programmers 001,002", Closely),
    ("PROGRAMMER_ID=003 worker run --pool pool.yaml", Closely),
    ("worker run --pool pool.yaml --any 2", Closely),
    // reference/http-api.md
    ("curl -s \"$POOL_URL/openapi.json\"", AsItStands),
    (
        "curl -s -H 'content-type: application/json' -d '{\"instruction\": \"add a test for parse()\", \
         \"repository\": \"sample\"}' \"$POOL_URL/tasks\"",
        AsItStands,
    ),
    (
        "curl -s \"$POOL_URL/tasks?status=running&limit=10\"",
        AsItStands,
    ),
    (
        "curl -s \"$POOL_URL/tasks/t-01a2090547ec74cf9ee3dc543c64f42b/why\"",
        AsItStands,
    ),
    (
        "curl -s \"$POOL_URL/tasks/t-01a2090547ec74cf9ee3dc543c64f42b/patch\"",
        AsItStands,
    ),
    (
        "curl -s -X DELETE \"$POOL_URL/tasks/t-01a2090547ec74cf9ee3dc543c64f42b\"",
        AsItStands,
    ),
    (
        "curl -s -H 'content-type: application/json' -d '{\"target\": {\"what\": \"programmer\", \
         \"id\": \"003\"}}' \"$POOL_URL/programmer_pool/pause\"",
        AsItStands,
    ),
    (
        "curl -s -H 'content-type: application/json' -d '{\"target\": {\"what\": \"programmer\", \
         \"id\": \"003\"}}' \"$POOL_URL/programmer_pool/resume\"",
        AsItStands,
    ),
    (
        "curl -s \"$POOL_URL/report?since=24h&by=llm&format=csv\"",
        AsItStands,
    ),
];

/// The commands in lines. `$DONE` is a finished task, `$WAITS` one that waits while the pool is
/// paused, `$DEAD` a dead letter.
pub(super) const IN_LINES: &[(&str, How)] = &[
    ("scripts/quickstart", NotHere("in a block")),
    ("scripts/quickstart --chaos", NotHere("promises quickstart")),
    ("scripts/test", NotHere("it runs this test")),
    (
        "scripts/test -p pool-core routing",
        NotHere("it would run tests within a test"),
    ),
    (
        "scripts/local-pool start | stop | restart | status",
        NotHere("promises background_pool"),
    ),
    (
        "scripts/local-pool start --trial FILE",
        NotHere("promises background_pool"),
    ),
    ("scripts/local-pool", NotHere("its name")),
    (
        "scripts/test-compose",
        NotHere("it needs Docker and half an hour"),
    ),
    ("scripts/bench", NotHere("it measures for five minutes")),
    (
        "scripts/lib/pictures.sh",
        NotHere("it takes pictures of a running pool for two minutes"),
    ),
    ("ollama pull qwen2.5-coder:7b-instruct", NOT_OURS),
    ("ollama show", NOT_OURS),
    ("ollama ps", NOT_OURS),
    ("docker-compose up --build -d", BY_COMPOSE),
    ("docker-compose run --rm setup show", BY_COMPOSE),
    ("docker-compose exec dispatcher pool status", BY_COMPOSE),
    (
        "docker-compose --env-file config/trial.env --profile trial up --build -d",
        BY_COMPOSE,
    ),
    (
        "docker-compose exec dispatcher pool submit --wait config/trial/tasks.yaml",
        BY_COMPOSE,
    ),
    ("pool check", AsItStands),
    ("pool check --llms", AsItStands),
    (
        "dispatcher serve",
        NotHere("with its pool file, in a block"),
    ),
    ("worker run", NotHere("with its pool file, in a block")),
    (
        "worker sandbox --in DIRECTORY -- COMMAND",
        Lines(&["worker sandbox --in .pool/sample -- git log --oneline"]),
    ),
    ("pool health", AsItStands),
    ("dispatcher topology", AsItStands),
    ("dispatcher openapi", AsItStands),
    ("pool submit", NotHere("with its tasks, in blocks")),
    (
        "pool submit --dry-run",
        NotHere("with its tasks, in a block"),
    ),
    (
        "pool submit FILE --dry-run",
        Lines(&["pool submit config/trial/tasks.yaml --dry-run"]),
    ),
    (
        "pool status",
        Lines(&["pool status", "pool status --wait-ready 30"]),
    ),
    (
        "pool watch",
        Lines(&["timeout 60 pool watch --label run_id=monday"]),
    ),
    (
        "pool watch --task ID",
        Lines(&["timeout 60 pool watch --task \"$DONE\""]),
    ),
    ("pool budget", AsItStands),
    (
        "pool budget set --limit USD --today",
        Lines(&["pool budget set --limit 60 --today"]),
    ),
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
    (
        "pool patch",
        Lines(&["pool patch \"$DONE\" --format json | grep '\"patch\"'"]),
    ),
    (
        "pool apply-patch ID",
        Lines(&["pool apply-patch \"$DONE\" -C .pool/sample --check"]),
    ),
    ("pool logs ID", Lines(&["pool logs \"$DONE\""])),
    (
        "pool tasks --status queued -o name | xargs -r pool cancel",
        Lines(&["pool tasks --status queued -o name"]),
    ),
    ("pool prices", AsItStands),
    (
        "scripts/prices --to FILE",
        NotHere("it fetches the newest catalogue from a package registry"),
    ),
    ("pool man DIR", Lines(&["pool man .pool/man"])),
    ("pool why ID", Lines(&["pool why \"$DONE\""])),
    (
        "pool breaker probe LLM",
        Lines(&["pool breaker probe openai/gpt-4o || [ $? -eq 1 ]"]),
    ),
    (
        "pool breaker close LLM",
        Lines(&["pool breaker close openai/gpt-4o || [ $? -eq 1 ]"]),
    ),
    (
        "pool pause",
        Lines(&[
            "pool pause --programmer 001",
            "pool pause --route fast",
            "pool pause --all",
        ]),
    ),
    ("pool pauses", Lines(&["pool pauses | grep fast"])),
    (
        "pool resume",
        Lines(&[
            "pool resume --programmer 001",
            "pool resume --route fast",
            // The next task must wait.
            "pool submit --repository sample --instruction 'x y' --id \"$WAITS\"",
        ]),
    ),
    ("pool requeue ID", Lines(&["pool requeue \"$WAITS\""])),
    ("pool cancel ID…", Lines(&["pool cancel \"$WAITS\""])),
    (
        "pool retry ID…",
        Lines(&[
            "pool retry \"$WAITS\"",
            "pool retry --failed --label run_id=monday",
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
    (
        "pool report --since 7d --by llm",
        Lines(&[
            "pool report --since 7d --by llm",
            "pool report --by programmer",
            "pool report --by route",
            "pool report --by label:run_id",
        ]),
    ),
    (
        "pool schema task|result|pool",
        Lines(&["pool schema task", "pool schema result", "pool schema pool"]),
    ),
    ("pool schema openapi", AsItStands),
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
    (
        "curl -s -N \"$POOL_URL/events\"",
        Lines(&["{ timeout 5 curl -s -N \"$POOL_URL/events\" || true; } | grep '^event: hello'"]),
    ),
    (
        "curl -s -N -H 'last-event-id: 019c1234-….18' \"$POOL_URL/events\"",
        Lines(&[
            "{ timeout 5 curl -s -N -H 'last-event-id: 019c1234-….18' \"$POOL_URL/events\" || true; } \
             | grep '\"resumed\":false'",
        ]),
    ),
];

/// Blocks without commands: the language, words in it, and how the tests use it.
pub(super) const OTHER_BLOCKS: &[(&str, &str, &str)] = &[
    (
        "text",
        "BREAKER OPEN",
        "promises quickstart looks for these words",
    ),
    ("text", "GET /events", "what a stream looks like"),
    (
        "yaml",
        "token_file: token",
        "the command line's own tests read such a file",
    ),
    (
        "ini",
        "ExecStart=/usr/local/bin/worker run",
        "a unit of systemd, which is not here",
    ),
    (
        "json",
        "\"instruction\": \"Write the function median",
        "task.json of the requests",
    ),
    ("json", "month_total fails", "submitted; its check passes"),
    ("json", "\"hidden tests\"", "one check of a task, shortened"),
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
    ("yaml", "programmers:", "pool files that are checked"),
    (
        "yaml",
        "agent:\n  kind:",
        "sections of a pool file: scripts/docs --check",
    ),
    (
        "yaml",
        "  max_duration_per_job_s: 1800",
        "sections of a pool file: scripts/docs --check",
    ),
];

/// Requests that need an object first, and the command that covers them.
pub(super) const NOT_SENT: &[(&str, &str, &str)] = &[
    ("DELETE", "/dead/{id}", "pool dead drop ID"),
    ("POST", "/dead/{id}/retry", "promises dead_letters"),
];
