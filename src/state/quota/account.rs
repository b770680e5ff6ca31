//! What one caller has used, and the part of it that one call takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use parking_lot::Mutex;

use super::bucket::Bucket;
use crate::api::Usage;
use crate::base::clock;
use crate::plan::{ModelLimits, TenantLimits};

/// Taken for the length of an answer before the caller has had one.
const FIRST_OUTPUT: u64 = 256;

/// No single answer is expected to be longer: what a client allows for is not what it gets.
const MOST_OUTPUT: u64 = 1 << 20;

/// No single call costs more, each way, whatever a worker says: a figure gone wild must not leave a debt
/// that never ends.
const MOST_TOLD: u64 = 1 << 24;

/// So many answers weigh on the mean; older ones count less and less.
const REMEMBERED: u64 = 1024;

/// A request over a limit, and how long until there is room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("over a limit of the caller")]
pub struct Over(Duration);

impl Over {
    /// When to come back: whole seconds, at least one.
    pub fn retry_after(self) -> Duration {
        let whole = self.0.as_secs() + u64::from(self.0.subsec_nanos() > 0);
        Duration::from_secs(whole.max(1))
    }
}

/// Requests and tokens so far.
#[derive(Debug, Default)]
pub struct Sums {
    /// Requests within the limits.
    pub allowed: AtomicU64,
    /// Requests over a limit.
    pub rejected: AtomicU64,
    /// Tokens of prompts, as workers told them.
    pub input: AtomicU64,
    /// Tokens of answers, as workers told them.
    pub output: AtomicU64,
}

impl Sums {
    fn told(&self, usage: Usage) {
        self.input.fetch_add(usage.input, Ordering::Relaxed);
        self.output.fetch_add(usage.output, Ordering::Relaxed);
    }
}

/// What is counted of one caller.
#[derive(Debug, Default)]
pub struct AccountCell {
    book: Mutex<Book>,
    sums: Arc<Sums>,
}

#[derive(Debug, Default)]
struct Book {
    under_way: u64,
    requests: Bucket,
    tokens: Bucket,
    /// By the name or glob of the limits.
    models: AHashMap<Arc<str>, Own>,
    outputs: Outputs,
    /// Tokens of calls that have not ended, by estimate.
    #[cfg(test)]
    reserved: u64,
}

/// What is counted of the models under one name or glob.
#[derive(Debug, Default)]
struct Own {
    requests: Bucket,
    tokens: Bucket,
}

/// The mean length of answers.
#[derive(Debug, Default)]
struct Outputs {
    sum: u64,
    count: u64,
}

/// What a call wants, as far as its body says.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The model.
    pub model: &'a str,
    /// Bytes of the body.
    pub bytes: usize,
    /// Whether there will be an answer of tokens.
    pub generates: bool,
    /// How many answers there will be of which nobody says the usage together; at least one.
    pub answers: u64,
    /// Tokens of an answer at most, where the client says.
    pub most: Option<u64>,
}

/// What a call has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// The worker said how much.
    Told(Usage),
    /// A worker may have worked on it and nobody said how much: the estimate stands.
    Unknown,
    /// Nobody has worked on it.
    Nothing,
}

impl Spent {
    /// The same, each figure `most` at most.
    fn within(self, most: u64) -> Self {
        match self {
            Self::Told(usage) => Self::Told(Usage {
                input: usage.input.min(most),
                output: usage.output.min(most),
                ..usage
            }),
            Self::Unknown | Self::Nothing => self,
        }
    }
}

/// What one call takes of its caller's allowance. Whatever is not settled is given back with it.
#[derive(Debug)]
pub struct Stay {
    /// `None` for a caller without limits, and for a call that was refused.
    account: Option<Arc<AccountCell>>,
    sums: Arc<Sums>,
    limits: Arc<TenantLimits>,
    generates: bool,
    reserved: Option<Reserved>,
    counted: bool,
}

#[derive(Debug)]
struct Reserved {
    tokens: u64,
    /// The name or glob of a model's limits of which they were taken besides, and how much that gives.
    own: Option<(Arc<str>, u64)>,
}

impl AccountCell {
    /// An account without any use, which is counted in `sums`.
    pub fn new(sums: Arc<Sums>) -> Self {
        Self {
            book: Mutex::default(),
            sums,
        }
    }

    /// What the caller has asked for.
    pub fn sums(&self) -> &Arc<Sums> {
        &self.sums
    }

    /// A call comes, of which only the head is known.
    ///
    /// # Errors
    /// [`Over`] when it is over `limits`; nothing has been taken.
    pub fn arrive(
        self: &Arc<Self>,
        limits: &Arc<TenantLimits>,
        now: Instant,
    ) -> Result<Stay, Over> {
        let arrived = self.book.lock().arrive(limits, now);
        if let Err(over) = arrived {
            self.sums.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(over);
        }
        Ok(Stay::new(Some(Arc::clone(self)), &self.sums, limits))
    }
}

impl Book {
    fn arrive(&mut self, limits: &TenantLimits, now: Instant) -> Result<(), Over> {
        if limits
            .max_concurrent
            .is_some_and(|most| self.under_way >= most)
        {
            // Nobody knows when one of them ends.
            return Err(Over(Duration::ZERO));
        }
        if let Some(limit) = limits.requests_per_minute {
            let wait = self.requests.wait(limit, 1, now);
            if !wait.is_zero() {
                return Err(Over(wait));
            }
            self.requests.take(limit, 1, now);
        }
        self.under_way += 1;
        Ok(())
    }

    /// Takes what `wanted` needs of all that it needs it of, or nothing.
    fn reserve(
        &mut self,
        limits: &TenantLimits,
        own: Option<&ModelLimits>,
        wanted: &Wanted<'_>,
        now: Instant,
    ) -> Result<Option<Reserved>, Over> {
        let tokens = self.estimate(wanted);
        let mut wait = Duration::ZERO;
        if let Some(limit) = limits.tokens_per_minute {
            wait = self.tokens.wait(limit, tokens, now);
        }
        if let Some(own) = own {
            let used = own_of(&mut self.models, limits, &own.pattern);
            if let Some(limit) = own.requests_per_minute {
                wait = wait.max(used.requests.wait(limit, 1, now));
            }
            if let Some(limit) = own.tokens_per_minute {
                wait = wait.max(used.tokens.wait(limit, tokens, now));
            }
        }
        if !wait.is_zero() {
            return Err(Over(wait));
        }
        if let Some(limit) = limits.tokens_per_minute {
            self.tokens.take(limit, tokens, now);
        }
        let mut taken = None;
        if let Some(own) = own {
            let used = own_of(&mut self.models, limits, &own.pattern);
            if let Some(limit) = own.requests_per_minute {
                used.requests.take(limit, 1, now);
            }
            if let Some(limit) = own.tokens_per_minute {
                used.tokens.take(limit, tokens, now);
                taken = Some((Arc::clone(&own.pattern), limit));
            }
        }
        if limits.tokens_per_minute.is_none() && taken.is_none() {
            return Ok(None);
        }
        #[cfg(test)]
        {
            self.reserved += tokens;
        }
        Ok(Some(Reserved { tokens, own: taken }))
    }

    fn estimate(&self, wanted: &Wanted<'_>) -> u64 {
        let input = (wanted.bytes / 4) as u64;
        let output = match wanted.most {
            _ if !wanted.generates => 0,
            Some(most) => most.min(MOST_OUTPUT),
            None => self.outputs.mean(),
        };
        let output = output.saturating_mul(wanted.answers);
        input.saturating_add(output.min(MOST_TOLD))
    }

    /// `spent` tokens have been used instead of those that were reserved.
    fn settle(&mut self, limits: &TenantLimits, reserved: &Reserved, spent: u64, now: Instant) {
        let change = |bucket: &mut Bucket, limit: u64| {
            if spent >= reserved.tokens {
                bucket.take(limit, spent - reserved.tokens, now);
            } else {
                bucket.give_back(reserved.tokens - spent);
            }
        };
        if let Some(limit) = limits.tokens_per_minute {
            change(&mut self.tokens, limit);
        }
        if let Some((pattern, limit)) = &reserved.own
            && let Some(used) = self.models.get_mut(pattern)
        {
            change(&mut used.tokens, *limit);
        }
        #[cfg(test)]
        {
            self.reserved -= reserved.tokens;
        }
    }

    /// A call that had been let in on its head is refused.
    fn turn_away(&mut self, limits: &TenantLimits) {
        self.under_way = self.under_way.saturating_sub(1);
        if limits.requests_per_minute.is_some() {
            self.requests.give_back(1);
        }
    }
}

/// What is counted under `pattern`. What the limits no longer name makes room for what they do.
fn own_of<'a>(
    models: &'a mut AHashMap<Arc<str>, Own>,
    limits: &TenantLimits,
    pattern: &Arc<str>,
) -> &'a mut Own {
    if !models.contains_key(pattern) {
        models.retain(|known, _| limits.models.iter().any(|own| own.pattern == *known));
    }
    models.entry(Arc::clone(pattern)).or_default()
}

impl Outputs {
    fn mean(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(FIRST_OUTPUT)
    }

    fn learn(&mut self, output: u64) {
        if self.count >= REMEMBERED {
            self.sum /= 2;
            self.count /= 2;
        }
        self.sum = self.sum.saturating_add(output.min(MOST_OUTPUT));
        self.count += 1;
    }
}

impl Stay {
    /// Of a caller whom nothing limits, and who is counted in `sums` all the same.
    pub fn unlimited(sums: &Arc<Sums>, limits: &Arc<TenantLimits>) -> Self {
        Self::new(None, sums, limits)
    }

    fn new(
        account: Option<Arc<AccountCell>>,
        sums: &Arc<Sums>,
        limits: &Arc<TenantLimits>,
    ) -> Self {
        let mut stay = Self {
            account,
            sums: Arc::clone(sums),
            limits: Arc::clone(limits),
            generates: false,
            reserved: None,
            counted: false,
        };
        if !stay.reads_body() {
            stay.count();
        }
        stay
    }

    /// Counts it as within the limits, once.
    fn count(&mut self) {
        if !std::mem::replace(&mut self.counted, true) {
            self.sums.allowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether some limit looks at more than the head.
    pub fn reads_body(&self) -> bool {
        let limits = &self.limits;
        self.account.is_some() && (limits.tokens_per_minute.is_some() || !limits.models.is_empty())
    }

    /// Whether what the answer costs is to be known.
    pub fn needs_usage(&self) -> bool {
        self.reserved.is_some()
    }

    /// Reserves what the call is expected to cost.
    ///
    /// # Errors
    /// [`Over`] when there is no room for it; nothing is taken any more, and the call is over.
    pub fn reserve(&mut self, wanted: &Wanted<'_>, now: Instant) -> Result<(), Over> {
        self.generates = wanted.generates;
        let Some(account) = &self.account else {
            return Ok(());
        };
        let own = self.limits.model(wanted.model).map(|(_, own)| own);
        let mut book = account.book.lock();
        match book.reserve(&self.limits, own, wanted, now) {
            Ok(reserved) => {
                drop(book);
                self.reserved = reserved;
                self.count();
                Ok(())
            }
            Err(over) => {
                book.turn_away(&self.limits);
                drop(book);
                self.account = None;
                self.counted = true;
                self.sums.rejected.fetch_add(1, Ordering::Relaxed);
                Err(over)
            }
        }
    }

    /// The call is over and has cost this.
    pub fn settle(mut self, spent: Spent, now: Instant) {
        let spent = spent.within(MOST_TOLD);
        if let Spent::Told(usage) = spent {
            self.sums.told(usage);
        }
        let reserved = self.reserved.take();
        let Some(account) = &self.account else {
            return;
        };
        let mut book = account.book.lock();
        if let Spent::Told(usage) = spent
            && self.generates
            && usage.output > 0
        {
            book.outputs.learn(usage.output);
        }
        if let Some(reserved) = reserved {
            let tokens = match spent {
                Spent::Told(usage) => usage.input.saturating_add(usage.output),
                Spent::Unknown => reserved.tokens,
                Spent::Nothing => 0,
            };
            book.settle(&self.limits, &reserved, tokens, now);
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.count();
        let Some(account) = &self.account else {
            return;
        };
        let mut book = account.book.lock();
        if let Some(reserved) = self.reserved.take() {
            book.settle(&self.limits, &reserved, 0, clock::now());
        }
        book.under_way = book.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
impl AccountCell {
    /// Calls under way, and what is reserved for them.
    pub(super) fn open(&self) -> (u64, u64) {
        let book = self.book.lock();
        (book.under_way, book.reserved)
    }

    /// Tokens that count against the caller's own allowance at `now`.
    pub(super) fn tokens(&self, limits: &TenantLimits, now: Instant) -> u128 {
        let mut book = self.book.lock();
        if let Some(limit) = limits.tokens_per_minute {
            book.tokens.take(limit, 0, now);
        }
        book.tokens.used()
    }
}
