//! Storms: for some seconds workers behave badly, clients as well, and the configuration changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Ask, Client, Tally, Version};
use crate::dialect::Api;
use crate::edits::{Tempo, keep_editing};
use crate::judge::{Rule, Verdict, judge, tell};
use crate::mortal::Mortal;
use crate::rude::{self, Habit};
use crate::town::{self, CALM_PATIENCE, PATIENCE, SICK, Town, UNTIL_CUT};
use crate::worker::Mood;

/// Clients of the sick pools at one time, and of the healthy one.
const CLIENTS: usize = 10;
const CALM_CLIENTS: usize = 3;
const RUDE_CLIENTS: usize = 6;

/// A kind of trouble.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storm {
    pub(crate) name: &'static str,
    moods: &'static [Mood],
    habits: &'static [Habit],
    kills: bool,
    /// How many more clients want to pass the gate.
    crowd: usize,
    edits: Tempo,
}

/// Each kind once.
pub(crate) const STORMS: &[Storm] = &[
    Storm::of("fair weather", &[]),
    Storm::of(
        "refused, reset",
        &[
            Mood::Refuse,
            Mood::ResetAtOnce,
            Mood::ResetAfterRequest,
            Mood::ResetMidway,
            Mood::ResetWhenIdle,
        ],
    ),
    Storm::of("blackholes", &[Mood::Blackhole, Mood::StallHead]),
    Storm::of(
        "stalls",
        &[
            Mood::StallHead,
            Mood::StallFirstToken,
            Mood::CommentsOnly,
            Mood::StallMidway,
        ],
    ),
    Storm::of(
        "garbage",
        &[
            Mood::Garbage,
            Mood::NotHttp,
            Mood::Html,
            Mood::CommentFlood,
            Mood::Trickle,
        ],
    ),
    Storm::of(
        "broken framing",
        &[
            Mood::TruncatedChunk,
            Mood::LengthTooLong,
            Mood::LengthTooShort,
            Mood::CloseAfterHead,
            Mood::NoTerminator,
        ],
    ),
    Storm::of(
        "errors",
        &[
            Mood::Busy,
            Mood::BusyUntil,
            Mood::BusyForLong,
            Mood::Fail,
            Mood::ErrorFirst,
            Mood::ErrorMidway,
        ],
    ),
    Storm {
        kills: true,
        ..Storm::of("kill -9", &[])
    },
    Storm {
        habits: &Habit::ALL,
        ..Storm::of("rude clients", &[])
    },
    Storm {
        crowd: 20,
        ..Storm::of("crowd at a gate", &[Mood::StallFirstToken, Mood::Trickle])
    },
    Storm {
        edits: Tempo::Storm,
        ..Storm::of("reloads", &[Mood::StallMidway])
    },
    Storm {
        name: "everything",
        moods: &[
            Mood::Refuse,
            Mood::Blackhole,
            Mood::ResetAtOnce,
            Mood::ResetAfterRequest,
            Mood::ResetMidway,
            Mood::StallHead,
            Mood::StallFirstToken,
            Mood::CommentsOnly,
            Mood::StallMidway,
            Mood::CommentFlood,
            Mood::Garbage,
            Mood::NotHttp,
            Mood::TruncatedChunk,
            Mood::LengthTooLong,
            Mood::LengthTooShort,
            Mood::Html,
            Mood::CloseAfterHead,
            Mood::NoTerminator,
            Mood::ErrorFirst,
            Mood::ErrorMidway,
            Mood::Trickle,
            Mood::ResetWhenIdle,
            Mood::Busy,
            Mood::BusyUntil,
            Mood::BusyForLong,
            Mood::Fail,
        ],
        habits: &Habit::ALL,
        kills: true,
        crowd: 10,
        edits: Tempo::Storm,
    },
];

impl Storm {
    const fn of(name: &'static str, moods: &'static [Mood]) -> Self {
        Self {
            name,
            moods,
            habits: &[],
            kills: false,
            crowd: 0,
            edits: Tempo::Calm,
        }
    }
}

/// What happened in a storm.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) requests: usize,
    pub(crate) whole: usize,
    pub(crate) refused: usize,
    pub(crate) cut_short: usize,
    pub(crate) slowest: Duration,
    pub(crate) slowest_calm: Duration,
    /// The requests that broke a rule.
    pub(crate) wrong: Vec<String>,
}

/// Numbers requests over the whole run, so that no id comes twice.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Storm {
    /// Rages for so long and waits until every client has its answer.
    pub(crate) async fn rage(self, town: &mut Town, length: Duration, rng: &mut Rng) -> Report {
        let to = town.smg.main();
        let stop = Arc::new(AtomicBool::new(false));
        let tally = Tally::default();
        let mut clients = JoinSet::new();
        for n in 0..CLIENTS + CALM_CLIENTS + self.crowd {
            let version = if n % 3 == 2 {
                Version::Http2
            } else {
                Version::Http1
            };
            let well = n < CALM_CLIENTS;
            let crowd = n >= CLIENTS + CALM_CLIENTS;
            let patience = if well { CALM_PATIENCE } else { PATIENCE };
            let mut client = Client::new(to, version, patience);
            let (stop, tally, mut rng) = (Arc::clone(&stop), tally.clone(), rng.fork());
            let (kills, all_well) = (self.kills, self.moods.is_empty());
            clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (ask, rule) = if well {
                        (question("calm", &mut rng), Rule::Well)
                    } else if crowd {
                        (question("gated", &mut rng), Rule::Sick)
                    } else if kills && rng.bool() {
                        let mut ask = question("mortal", &mut rng);
                        ask.api = [Api::Chat, Api::Completions][rng.usize(0..2)];
                        ask.tokens = 40;
                        (ask, Rule::Mortal)
                    } else {
                        let model = SICK[rng.usize(0..SICK.len())];
                        // A gate turns people away in any weather.
                        let well = all_well && model != "gated";
                        let rule = if well { Rule::Well } else { Rule::Sick };
                        (question(model, &mut rng), rule)
                    };
                    tally.push(client.ask(ask, rule).await);
                    sleep(Duration::from_millis(rng.u64(0..20))).await;
                }
            });
        }
        let wrong = Arc::<Mutex<Vec<String>>>::default();
        if !self.habits.is_empty() {
            for _ in 0..RUDE_CLIENTS {
                let (stop, wrong, mut rng) = (Arc::clone(&stop), Arc::clone(&wrong), rng.fork());
                let ledger = Arc::clone(&town.ledger);
                clients.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let habit = self.habits[rng.usize(0..self.habits.len())];
                        let mut ask = question(SICK[rng.usize(0..4)], &mut rng);
                        ask.stream = true;
                        if matches!(habit, Habit::ReadsSlowly | Habit::NeverReads) {
                            ask.tokens = 500;
                        }
                        ledger.fault(habit.name());
                        if let Err(said) =
                            rude::misbehave(habit, to, &ask, UNTIL_CUT, &mut rng).await
                        {
                            wrong.lock().push(said);
                        }
                    }
                });
            }
        }
        let until = Instant::now() + length;
        self.weather(town, until, rng, &wrong).await;
        stop.store(true, Ordering::Relaxed);
        town.heal().await;
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        let mut report = assess(town, &tally);
        report.wrong.extend(wrong.lock().drain(..));
        report
    }

    /// Changes moods, kills and edits until then.
    async fn weather(
        self,
        town: &mut Town,
        until: Instant,
        rng: &mut Rng,
        wrong: &Mutex<Vec<String>>,
    ) {
        let Town {
            smg,
            ledger,
            calm,
            sick,
            mortal,
        } = town;
        let mut moods = rng.fork();
        let turning = async {
            loop {
                for worker in sick.iter() {
                    if !self.moods.is_empty() && moods.u8(0..10) < 6 {
                        worker.turn(self.moods[moods.usize(0..self.moods.len())]);
                    } else {
                        worker.turn(Mood::Healthy);
                    }
                }
                sleep(Duration::from_millis(moods.u64(150..900))).await;
            }
        };
        let mut deaths = rng.fork();
        let urls: Vec<String> = mortal.iter().map(Mortal::url).collect();
        let killing = async {
            loop {
                sleep(Duration::from_millis(deaths.u64(100..500))).await;
                if self.kills {
                    let victim = deaths.usize(0..mortal.len());
                    mortal[victim].kill9();
                    ledger.fault("kill -9");
                    sleep(Duration::from_millis(deaths.u64(0..300))).await;
                    mortal[victim].revive().await;
                }
            }
        };
        let variant = |n| town::toml(calm, sick, &urls, n);
        let editing = keep_editing(smg, self.edits, variant, rng.fork(), |what| {
            ledger.fault(what);
        });
        tokio::select! {
            () = turning => {}
            () = killing => {}
            said = editing => wrong.lock().push(said),
            () = tokio::time::sleep_until(until.into()) => {}
        }
    }
}

fn question(model: &str, rng: &mut Rng) -> Ask {
    let api = Api::ALL[rng.usize(0..4)];
    Ask {
        id: format!("r{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        api,
        model: model.to_owned(),
        tokens: rng.usize(2..12),
        stream: rng.u8(0..4) > 0,
    }
}

fn assess(town: &Town, tally: &Tally) -> Report {
    let mut report = Report::default();
    for told in tally.take() {
        let attempts = town.ledger.attempts(&told.ask.id);
        report.requests += 1;
        let slowest = if told.ask.model == "calm" {
            &mut report.slowest_calm
        } else {
            &mut report.slowest
        };
        *slowest = told.took.max(*slowest);
        match judge(&told, &attempts) {
            Ok(Verdict::Whole) => report.whole += 1,
            Ok(Verdict::Refused) => report.refused += 1,
            Ok(Verdict::CutShort) => report.cut_short += 1,
            Err(wrong) => report.wrong.push(tell(&told, &attempts, &wrong)),
        }
    }
    report.wrong.extend(town.ledger.take_strays());
    report
}
