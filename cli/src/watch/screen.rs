//! Shows the view on a terminal: redraws on news and once a second, and always restores the
//! terminal.

use std::time::Duration;

use anyhow::Context as _;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt as _;
use pool_telemetry::clock::wall_clock;
use ratatui::DefaultTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::time::{MissedTickBehavior, interval};

use super::feed::FeedMessage;
use super::follow::Follow;
use super::render::{WatchView, render};

/// Times are shown in seconds.
const DRAW_EVERY: Duration = Duration::from_secs(1);

/// Restores the terminal when dropped.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// The meaning of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyAction {
    End,
    Up,
    Down,
    Nothing,
}

/// Runs until a key quits, or the followed tasks have ended.
pub(super) async fn run(
    heard: &mut Receiver<FeedMessage>,
    follow: &mut Follow,
    url: &str,
) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    // A problem at the start is printed on the normal screen.
    if let Some(first) = heard.recv().await {
        follow.hear(first)?;
    }
    let mut screen = Screen(ratatui::try_init().context("failed to draw on this terminal")?);
    let mut keys = EventStream::new();
    let mut every = interval(DRAW_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let colors = anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never;
    let mut scrolled = 0;
    while !follow.is_over() {
        let view = WatchView {
            url,
            follow,
            now: wall_clock(),
            colors,
            scrolled,
        };
        screen
            .0
            .draw(|frame| render(frame, &view))
            .context("failed to draw on this terminal")?;
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = every.tick() => {}
            next = heard.recv() => match next {
                Some(next) => _ = follow.hear(next)?,
                None => return Ok(()),
            },
            key = keys.next() => match key {
                Some(Ok(event)) => match action(&event) {
                    KeyAction::End => return Ok(()),
                    KeyAction::Up => scrolled = usize::saturating_sub(scrolled, 1),
                    KeyAction::Down => scrolled = (scrolled + 1).min(follow.programmers().saturating_sub(1)),
                    KeyAction::Nothing => {}
                },
                // The terminal is gone.
                Some(Err(_)) | None => return Ok(()),
            },
        }
    }
    Ok(())
}

fn action(event: &Event) -> KeyAction {
    let Event::Key(KeyEvent {
        code,
        modifiers,
        kind: KeyEventKind::Press,
        ..
    }) = event
    else {
        return KeyAction::Nothing;
    };
    let is = |keys: &[KeyCode]| keys.contains(code);
    if is(&[KeyCode::Char('q'), KeyCode::Esc])
        || is(&[KeyCode::Char('c')]) && modifiers.contains(KeyModifiers::CONTROL)
    {
        KeyAction::End
    } else if is(&[KeyCode::Up, KeyCode::Char('k')]) {
        KeyAction::Up
    } else if is(&[KeyCode::Down, KeyCode::Char('j')]) {
        KeyAction::Down
    } else {
        KeyAction::Nothing
    }
}
