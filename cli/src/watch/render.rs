//! Draws the view. Pure: takes the known state and the time, returns cells.

use pool_api::control::PauseView;
use pool_api::events::{Live, Tone};
use pool_api::format::{age, counted, millis, with_clocks};
use pool_api::pool::{BreakerStatus, PoolStatus, RouteStatus};
use pool_api::status::ProgrammerStatus;
use pool_api::tasks::TaskView;
use pool_core::time::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table};

use super::follow::Follow;
use super::lines::details;
use crate::status::{breaker_word, budget, tone};
use crate::table::{plain, task_tone};

/// Lines for the title, tasks, money, and a blank.
const HEAD: u16 = 4;
const MOST_PAUSES: u16 = 3;
/// The least number of lines for finished tasks.
const ENDED: u16 = 5;
const FOOT: u16 = 1;
/// Blanks between two columns.
const GAP: u16 = 2;
/// `10 min 06 s`.
const SPAN: Constraint = Constraint::Length(11);

pub(super) struct WatchView<'a> {
    pub(super) url: &'a str,
    pub(super) follow: &'a Follow,
    pub(super) now: Timestamp,
    pub(super) colors: bool,
    /// How many programmers are scrolled out at the top.
    pub(super) scrolled: usize,
}

pub(super) fn render(frame: &mut Frame<'_>, view: &WatchView<'_>) {
    let live = view.follow.live.as_ref();
    let heights = live
        .map(|live| Heights::of(live, frame.area().height))
        .unwrap_or_default();
    let [head, pauses, team, queues, shut, ended, foot] = Layout::vertical([
        Constraint::Length(HEAD),
        Constraint::Length(heights.pauses),
        Constraint::Length(heights.programmers),
        Constraint::Length(heights.routes),
        Constraint::Length(heights.breakers),
        Constraint::Min(ENDED),
        Constraint::Length(FOOT),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(view.head()), head);
    if let Some(live) = live {
        frame.render_widget(Paragraph::new(view.pauses(live)), pauses);
        frame.render_widget(view.programmers(live, team), team);
        frame.render_widget(view.routes(live, queues), queues);
        frame.render_widget(view.breakers(live, shut), shut);
    }
    frame.render_widget(view.ended(ended), ended);
    frame.render_widget(
        Paragraph::new("q quit · ↑ ↓ scroll").style(view.muted()),
        foot,
    );
}

#[derive(Debug, Clone, Copy, Default)]
struct Heights {
    pauses: u16,
    programmers: u16,
    routes: u16,
    breakers: u16,
}

impl Heights {
    /// If the terminal is too small, the routes are left out first, then programmers scroll.
    fn of(live: &Live, height: u16) -> Self {
        let pauses = u16::try_from(live.status.pauses.len())
            .unwrap_or(u16::MAX)
            .min(MOST_PAUSES);
        let breakers = rows(live.status.open_breakers().count());
        let left = height.saturating_sub(HEAD + pauses + breakers + ENDED + FOOT);
        let (programmers, routes) = (
            rows(live.status.programmers.len()),
            rows(live.status.routes.len()),
        );
        let routes = if programmers.saturating_add(routes) <= left {
            routes
        } else {
            0
        };
        Self {
            pauses,
            programmers: programmers.min(left),
            routes,
            breakers,
        }
    }
}

/// The height of a table: a header, one line per row, and a blank line.
fn rows(count: usize) -> u16 {
    if count == 0 {
        0
    } else {
        u16::try_from(count + 2).unwrap_or(u16::MAX)
    }
}

impl WatchView<'_> {
    fn style(&self, tone: Tone) -> Style {
        let color = match tone {
            Tone::Good => Color::Green,
            Tone::Active => Color::Cyan,
            Tone::Warning => Color::Yellow,
            Tone::Bad => Color::Red,
            Tone::Neutral => return Style::new(),
        };
        self.style_or_plain(Style::new().fg(color))
    }

    fn style_if(&self, applies: bool, tone: Tone) -> Style {
        self.style(if applies { tone } else { Tone::Neutral })
    }

    fn muted(&self) -> Style {
        self.style_or_plain(Style::new().add_modifier(Modifier::DIM))
    }

    fn style_or_plain(&self, style: Style) -> Style {
        if self.colors { style } else { Style::new() }
    }

    fn bold() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn head(&self) -> Vec<Line<'static>> {
        let connection = match (&self.follow.connection, &self.follow.live) {
            (
                Ok(()),
                Some(Live {
                    status:
                        PoolStatus {
                            detail: Some(trouble),
                            ..
                        },
                    ..
                }),
            ) => Span::styled(plain(trouble), self.style(Tone::Warning)),
            (Ok(()), _) => Span::styled("live", self.style(Tone::Good)),
            (Err(why), _) => Span::styled(
                plain(&format!("trying again: {why}")),
                self.style(Tone::Bad),
            ),
        };
        let title = Line::from(vec![
            Span::styled("Programmer Pool", Self::bold()),
            Span::raw(format!("  {}  ", self.url)),
            connection,
        ]);
        let Some(Live { status, counts, .. }) = &self.follow.live else {
            return vec![title];
        };
        let count = |name: &str| counts.get(name).copied().unwrap_or_default();
        let bad: Vec<String> = ["failed", "rejected", "expired"]
            .into_iter()
            .filter(|word| count(word) > 0)
            .map(|word| format!("{} {word}", count(word)))
            .collect();
        let words = if bad.is_empty() {
            "0 failed".to_owned()
        } else {
            bad.join(", ")
        };
        let numbers = Line::from(vec![
            Span::raw(format!(
                "{} of {} available · ",
                status.available, status.pool_size
            )),
            Span::raw(format!(
                "{} running · {} queued · ",
                count("running"),
                count("queued")
            )),
            Span::styled(
                format!("{} succeeded", count("succeeded")),
                self.style(Tone::Good),
            ),
            Span::raw(" · "),
            Span::styled(words, self.style_if(!bad.is_empty(), Tone::Bad)),
        ]);
        let style = self.style_if(status.budget.alert, Tone::Warning);
        let money = Line::styled(budget(&status.budget), style);
        vec![title, numbers, money]
    }

    fn pauses(&self, live: &Live) -> Vec<Line<'static>> {
        let pause = |pause: &PauseView| {
            let words = format!(
                "paused: {} for {}",
                pause.target,
                span(self.now, pause.since)
            );
            Line::styled(words, self.style(Tone::Warning))
        };
        live.status.pauses.iter().map(pause).collect()
    }

    /// Text that does not fit into its column ends with `…`.
    fn table<const N: usize>(
        &self,
        head: [&'static str; N],
        rows: impl IntoIterator<Item = [Span<'static>; N]>,
        widths: [Constraint; N],
        area: Rect,
    ) -> Table<'static> {
        let header = Row::new(head).style(self.muted().add_modifier(Modifier::UNDERLINED));
        let columns = Layout::horizontal(widths)
            .spacing(GAP)
            .areas::<N>(Rect { height: 1, ..area });
        let row = |mut parts: [Span<'static>; N]| {
            for (part, column) in parts.iter_mut().zip(columns) {
                part.content = cut(&part.content, column.width.into()).into();
            }
            Row::new(parts)
        };
        Table::new(rows.into_iter().map(row), widths)
            .header(header)
            .column_spacing(GAP)
    }

    fn state(&self, word: &str, tone: Tone) -> Span<'static> {
        Span::styled(word.to_owned(), self.style(tone))
    }

    fn programmers(&self, live: &Live, area: Rect) -> Table<'static> {
        let all = &live.status.programmers;
        let fit = usize::from(area.height.saturating_sub(2));
        let from = self.scrolled.min(all.len().saturating_sub(fit));
        let rows = all
            .iter()
            .skip(from)
            .take(fit)
            .map(|one| self.programmer(live, one));
        let below = all.len().saturating_sub(from + fit);
        let more = (below > 0).then(|| {
            let blank = || Span::raw("");
            let words = Span::styled(format!("↓ {below} more"), self.muted());
            [words, blank(), blank(), blank(), blank()]
        });
        let rows = rows.chain(more);
        let llm = widest(all.iter().map(|one| one.current_llm.as_str()), 34);
        let widths = [
            Constraint::Length(10),
            Constraint::Length(5),
            SPAN,
            llm,
            Constraint::Fill(1),
        ];
        self.table(
            ["programmer", "state", "for", "LLM", "doing"],
            rows,
            widths,
            area,
        )
    }

    fn programmer(&self, live: &Live, one: &ProgrammerStatus) -> [Span<'static>; 5] {
        let since = one
            .since
            .map(|since| span(self.now, since))
            .unwrap_or_default();
        let words = one.task.as_ref().map(|task| {
            match live.running.get(task).filter(|words| !words.is_empty()) {
                Some(words) => format!("{words} ({task})"),
                None => task.to_string(),
            }
        });
        [
            one.agent.clone().into(),
            if one.unknown {
                "?".into()
            } else {
                self.state(one.state.as_str(), tone(one.state))
            },
            since.into(),
            Span::styled(
                one.current_llm.clone(),
                self.style_if(one.using_backup, Tone::Warning),
            ),
            one_line(&words.unwrap_or_else(|| with_clocks(&one.reason, self.now))).into(),
        ]
    }

    fn routes(&self, live: &Live, area: Rect) -> Table<'static> {
        let row = |route: &RouteStatus| {
            let oldest = route
                .oldest_waiting
                .map(|since| span(self.now, since))
                .unwrap_or_default();
            let served = counted(route.programmers.len(), "programmer", "programmers");
            [
                route.name.clone(),
                route.waiting_in_words(),
                oldest,
                route.running.to_string(),
                served,
            ]
            .map(Span::from)
        };
        let name = widest(
            live.status.routes.iter().map(|route| route.name.as_str()),
            34,
        );
        let number = Constraint::Length(7);
        let widths = [name, number, SPAN, number, Constraint::Fill(1)];
        self.table(
            ["route", "waiting", "oldest", "running", "served by"],
            live.status.routes.iter().map(row),
            widths,
            area,
        )
    }

    fn breakers(&self, live: &Live, area: Rect) -> Table<'static> {
        let row = |breaker: &BreakerStatus| {
            let why = breaker
                .reason
                .map(|fault| format!("{} × {}", breaker.failures, fault.as_str()));
            let probe = breaker
                .until
                .map(|until| format!("in {}", span(until, self.now)))
                .unwrap_or_default();
            [
                breaker.llm.to_string().into(),
                self.state(breaker_word(breaker.state), Tone::Bad),
                probe.into(),
                format!("{}, for {}", why.unwrap_or_default(), breaker.scope).into(),
            ]
        };
        let llm = widest(
            live.status
                .breakers
                .iter()
                .map(|breaker| breaker.llm.as_str()),
            40,
        );
        let widths = [
            llm,
            Constraint::Length(9),
            Constraint::Length(13),
            Constraint::Fill(1),
        ];
        self.table(
            ["breaker", "state", "probe", "why"],
            live.status.open_breakers().map(row),
            widths,
            area,
        )
    }

    fn ended(&self, area: Rect) -> Table<'static> {
        let row = |task: &TaskView| {
            let ago = task
                .finished_at
                .map(|at| span(self.now, at))
                .unwrap_or_default();
            [
                task.id.to_string().into(),
                self.state(task.status.as_str(), task_tone(task.status)),
                ago.into(),
                one_line(&format!("{} {}", details(task).trim(), task.summary)).into(),
            ]
        };
        let id = widest(self.follow.ended.iter().map(|task| task.id.as_str()), 34);
        let widths = [id, Constraint::Length(9), SPAN, Constraint::Fill(1)];
        self.table(
            ["finished", "status", "ago", "details"],
            self.follow.ended.iter().map(row),
            widths,
            area,
        )
    }
}

fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some(_) => text
            .chars()
            .take(width.saturating_sub(1))
            .chain(['…'])
            .take(width)
            .collect(),
        None => text.to_owned(),
    }
}

fn one_line(text: &str) -> String {
    plain(text).replace(['\n', '\t'], " ")
}

/// As wide as the widest text, up to `most`.
fn widest<'a>(texts: impl Iterator<Item = &'a str>, most: u16) -> Constraint {
    let widest = texts
        .map(|text| text.chars().count())
        .max()
        .unwrap_or_default();
    Constraint::Length(u16::try_from(widest).unwrap_or(u16::MAX).clamp(10, most))
}

fn span(to: Timestamp, from: Timestamp) -> String {
    age(millis(from, to))
}

#[cfg(test)]
#[path = "render_tests.rs"]
pub(in crate::watch) mod tests;
