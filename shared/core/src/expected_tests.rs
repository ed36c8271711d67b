use proptest::prelude::*;
use serde_json::json;

use super::*;

fn traits(instruction: &str, repository: &str, labels: &[(&str, &str)]) -> Traits {
    let labels: serde_json::Map<_, _> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    let task = json!({"instruction": instruction, "repository": repository, "labels": labels});
    Traits::of(&serde_json::from_value(task).expect("a task"))
}

fn llm(name: &str) -> LlmName {
    LlmName::new(name).expect("an LLM")
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn the_most_similar_tasks_that_are_known_say_how_long_a_task_takes() {
    let mut durations = Durations::default();
    let (a, b) = (llm("p/a"), llm("p/b"));
    for n in 0..3 {
        let task = |kind, run| {
            let run = format!("{run}{n}");
            traits(
                &format!("{kind} {run}"),
                "app",
                &[("kind", kind), ("run", &run)],
            )
        };
        durations.learn(&task("test", "x"), Some(&a), secs(10));
        durations.learn(&task("port", "y"), Some(&b), secs(100));
    }
    durations.learn(
        &traits("known", "app", &[("kind", "test")]),
        Some(&a),
        secs(30),
    );
    durations.learn(&traits("else", "lib", &[]), None, secs(2));
    let expect = |task: &Traits, llm: Option<&LlmName>| {
        let expected = durations.expect(task, llm).expect("tasks have finished");
        (expected.duration.as_secs(), expected.by.to_string())
    };
    let of = |secs: u64, by: Basis| (secs, by.to_string());
    for (task, llm, expected, what) in [
        (
            traits("known", "app", &[("kind", "port")]),
            None,
            of(30, Basis::SameTask),
            "the same task before all",
        ),
        (
            traits("new", "app", &[("kind", "port")]),
            Some(&a),
            of(100, Basis::Label("kind=port".to_owned())),
            "a label",
        ),
        (
            traits("new", "app", &[("run", "x0")]),
            Some(&b),
            of(100, Basis::Llm(b.clone())),
            "a label needs three tasks",
        ),
    ] {
        assert_eq!(expect(&task, llm), expected, "{what}");
    }
    let by = |task: &Traits| expect(task, None).1;
    assert_eq!(
        by(&traits("new", "app", &[])),
        Basis::Repository.to_string(),
        "the repository"
    );
    assert_eq!(
        by(&traits("new", "lib", &[])),
        Basis::AllTasks.to_string(),
        "one task of a repository is too few"
    );
}

#[test]
fn of_several_labels_the_one_whose_tasks_differ_least_counts() {
    let mut durations = Durations::default();
    for n in 1..=4 {
        let of = |kind| {
            traits(
                &format!("{kind} {n}"),
                "app",
                &[("kind", kind), ("team", "blue")],
            )
        };
        durations.learn(&of("test"), None, secs(10));
        durations.learn(&of("port"), None, secs(100));
    }
    let task = traits("new", "app", &[("kind", "test"), ("team", "blue")]);
    let expected = durations.expect(&task, None).expect("tasks have finished");
    assert_eq!(
        (expected.duration, expected.by),
        (secs(10), Basis::Label("kind=test".to_owned())),
        "not the team"
    );
}

#[test]
fn an_average_follows_durations_that_change() {
    let mut durations = Durations::default();
    let task = traits("t", "app", &[]);
    for _ in 0..20 {
        durations.learn(&task, None, secs(10));
    }
    for _ in 0..10 {
        durations.learn(&task, None, secs(20));
    }
    let now = durations.expect(&task, None).expect("it is known").duration;
    assert!(
        (secs(19)..=secs(20)).contains(&now),
        "{now:?} after ten durations of 20 s"
    );
}

#[test]
fn kinds_that_do_not_come_again_are_forgotten() {
    let mut durations = Durations::default();
    let often = traits("often", "app", &[]);
    durations.learn(&traits("once", "app", &[]), None, secs(1));
    for n in 0..3 * KINDS {
        durations.learn(&traits(&format!("t{n}"), "app", &[]), None, secs(1));
        if n % 1000 == 0 {
            durations.learn(&often, None, secs(7));
        }
    }
    let by = |task: &Traits| {
        durations
            .expect(task, None)
            .expect("tasks have finished")
            .by
    };
    assert_eq!(
        by(&traits("once", "app", &[])),
        Basis::Repository,
        "it came once, long ago"
    );
    assert_eq!(by(&often), Basis::SameTask, "it comes again and again");
    assert!(
        durations.young.len() + durations.old.len() <= 2 * (KINDS + 4),
        "bounded"
    );
}

fn order(tasks: &[(bool, u64)], programmers: usize, most_delay_s: u64) -> Vec<usize> {
    let tasks: Vec<ToOrder> = tasks
        .iter()
        .map(|&(high, s)| ToOrder {
            high,
            keeps_place: false,
            expected: secs(s),
        })
        .collect();
    longest_first(&tasks, programmers, secs(most_delay_s))
}

#[test]
fn the_longest_goes_first_within_bounds_and_behind_high_priority() {
    let normal = |all: &[u64]| all.iter().map(|s| (false, *s)).collect::<Vec<_>>();
    assert_eq!(
        order(&normal(&[1, 3, 2]), 1, 60),
        [1, 2, 0],
        "the longest first"
    );
    assert_eq!(
        order(&normal(&[2, 2, 2]), 1, 60),
        [0, 1, 2],
        "equal ones keep their places"
    );
    assert_eq!(
        order(&[(false, 9), (true, 1), (false, 3)], 1, 60),
        [1, 0, 2],
        "priority goes first"
    );
    assert_eq!(
        order(&normal(&[1, 4, 5, 6]), 1, 10),
        [2, 1, 0, 3],
        "only ten seconds of work change places"
    );
    assert_eq!(
        order(&normal(&[1, 4, 5, 6]), 2, 10),
        [3, 2, 1, 0],
        "two programmers do twice as much"
    );
    assert_eq!(
        order(&normal(&[90, 1, 2]), 1, 10),
        [0, 2, 1],
        "one task may be longer"
    );
}

/// When each task starts, if these programmers take tasks of these durations in this order.
fn starts(durations: &[u64], order: &[usize], programmers: usize) -> Vec<u64> {
    let mut free = vec![0; programmers];
    let mut starts = vec![0; durations.len()];
    for &task in order {
        let first = free.iter_mut().min().expect("a programmer");
        starts[task] = *first;
        *first += durations[task];
    }
    starts
}

fn makespan(durations: &[u64], order: &[usize], programmers: usize) -> u64 {
    let starts = starts(durations, order, programmers);
    let ends = starts
        .iter()
        .zip(durations)
        .map(|(start, takes)| start + takes);
    ends.max().unwrap_or_default()
}

proptest! {
    #[test]
    fn nobody_starts_later_than_first_come_first_served_by_more_than_the_bound(
        durations in proptest::collection::vec(1u64..100, 1..120), programmers in 1usize..12, most_delay in 1u64..200
    ) {
        let tasks: Vec<(bool, u64)> = durations.iter().map(|s| (false, *s)).collect();
        let order = order(&tasks, programmers, most_delay);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        let as_it_came: Vec<usize> = (0..durations.len()).collect();
        prop_assert_eq!(&sorted, &as_it_came, "every task once");
        let longest = durations.iter().max().expect("a task");
        let (before, now) = (starts(&durations, &as_it_came, programmers), starts(&durations, &order, programmers));
        for (task, (before, now)) in before.iter().zip(&now).enumerate() {
            prop_assert!(*now <= before + most_delay + longest, "task {task} starts at {now} instead of {before}");
        }
    }

    /// Sixty tasks on ten programmers; median 0.2 s, at most 3 s, many short ones and few long ones. They take as long as
    /// last time, give or take a tenth.
    #[test]
    fn all_end_soon_when_durations_repeat(draws in proptest::collection::vec((0.001f64..1.0, 0f64..1.0, -0.1f64..0.1), 60)) {
        let took: Vec<(u64, u64)> = draws.iter().map(|(u, v, off)| {
            let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
            let ms = (200.0 * normal.exp()).min(3000.0);
            (whole(ms * (1.0 + off)), whole(ms))
        }).collect();
        let tasks: Vec<ToOrder> = took
            .iter()
            .map(|(expected, _)| ToOrder { high: false, keeps_place: false, expected: Duration::from_millis(*expected) })
            .collect();
        let durations: Vec<u64> = took.iter().map(|(_, ms)| *ms).collect();
        let order = longest_first(&tasks, 10, secs(600));
        let longest = *durations.iter().max().expect("a task");
        let ideal = (durations.iter().sum::<u64>() / 10).max(longest);
        let made = makespan(&durations, &order, 10);
        prop_assert!(made * 100 <= ideal * 115, "{made} ms instead of {ideal} ms");
    }
}

fn whole(ms: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(ms / 1000.0).as_millis()).expect("seconds")
}

#[test]
fn a_task_with_a_deadline_keeps_its_place() {
    let task = |(keeps_place, minutes): (bool, u64)| ToOrder {
        high: false,
        keeps_place,
        expected: secs(60 * minutes),
    };
    let tasks = [(false, 1), (false, 2), (true, 1), (false, 3), (false, 4)].map(task);
    assert_eq!(longest_first(&tasks, 10, secs(600)), [1, 0, 2, 4, 3]);
    let tasks = [(true, 1), (false, 2)].map(task);
    assert_eq!(
        longest_first(&tasks, 10, secs(600)),
        [0, 1],
        "also the first one"
    );
}
