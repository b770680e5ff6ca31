//! The terminal while `smg top` runs: figures come in, keys come in, and however it ends the
//! terminal is as it was.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::draw::{Scene, draw};
use super::feed::{Feed, FeedError};
use super::look::Look;
use super::view::{View, Wish};
use crate::api::overview::Overview;
use crate::base::clock;
use crate::base::task::AbortOnDrop;

/// The terminal in its other state; dropped, it is as it was.
struct Screen(DefaultTerminal);

impl Screen {
    /// Takes the terminal over. A panic gives it back, too, before its message is written.
    fn new() -> io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| {
            ratatui::try_restore().ok();
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::try_restore().ok();
    }
}

/// Shows the gateway until a key or a signal ends it. `first` is what it answered before.
///
/// # Errors
/// If the terminal cannot be read or written.
pub(super) async fn run(
    feed: Arc<Feed>,
    first: Overview,
    every: Duration,
    look: Look,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut figures = figures(feed, every);
    let mut screen = Screen::new()?;
    let mut keys = keys()?;
    let mut shown = Shown::new(first);
    let mut view = View::new(look);
    // What says how long there has been no answer goes on without one.
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let scene = Scene {
            overview: &shown.overview,
            silent: shown.silent(every),
            interval: every,
        };
        screen.0.draw(|frame| draw(frame, &scene, &mut view))?;
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            Some(answer) = figures.receiver.recv() => shown.take(answer, view.paused),
            event = keys.recv() => match event {
                Some(Ok(Event::Key(key))) => {
                    if view.key(key, &shown.overview) == Some(Wish::Quit) {
                        return Ok(());
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
            _ = second.tick() => {}
        }
    }
}

/// What the gateway said last.
struct Shown {
    overview: Overview,
    heard: Instant,
    /// Why the last question has no answer.
    failed: Option<String>,
}

impl Shown {
    fn new(overview: Overview) -> Self {
        Self {
            overview,
            heard: clock::now(),
            failed: None,
        }
    }

    fn take(&mut self, answer: Result<Overview, FeedError>, paused: bool) {
        match answer {
            Ok(overview) => {
                self.heard = clock::now();
                self.failed = None;
                if !paused {
                    self.overview = overview;
                }
            }
            Err(why) => self.failed = Some(why.to_string()),
        }
    }

    /// A question that is under way for longer than usual counts as unanswered.
    fn silent(&self, every: Duration) -> Option<(Duration, &str)> {
        let since = clock::now().saturating_duration_since(self.heard);
        let overdue = since > every + Duration::from_secs(2);
        match &self.failed {
            Some(why) => Some((since, why)),
            None => overdue.then_some((since, "it takes its time")),
        }
    }
}

/// Answers of the gateway, one after the other.
struct Figures {
    receiver: mpsc::Receiver<Result<Overview, FeedError>>,
    _asking: AbortOnDrop,
}

fn figures(feed: Arc<Feed>, every: Duration) -> Figures {
    let (sender, receiver) = mpsc::channel(1);
    let asking = AbortOnDrop::spawn("top", async move {
        loop {
            tokio::time::sleep(every).await;
            let answer = feed.ask().await;
            if sender.send(answer).await.is_err() {
                return;
            }
        }
    });
    Figures {
        receiver,
        _asking: asking,
    }
}

/// Keys, and changes of the size. The thread waits for the terminal and ends with the process.
fn keys() -> io::Result<mpsc::Receiver<io::Result<Event>>> {
    let (sender, receiver) = mpsc::channel(16);
    let read = move || {
        loop {
            let event = event::read();
            let failed = event.is_err();
            if sender.blocking_send(event).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("keys".to_owned())
        .spawn(read)?;
    Ok(receiver)
}
