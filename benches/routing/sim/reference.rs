//! A model of the policy that existing cache-aware routers use: one approximate radix tree of the
//! prompts that each worker was sent, and thresholds that switch between locality and load.
//!
//! - Unbalanced (`max − min > 64` and `max > 1.5 × min` requests in flight): the least loaded.
//! - Else the longest prefix that the tree holds; more than 0.3 of the prompt matched: a worker
//!   that was sent this prefix, the one used last.
//! - Else the worker with the smallest tree.
//! - The prompt is entered for the chosen worker in every case. Every 120 s the leaves used longest
//!   ago are dropped from each worker's tree until it has at most 2^26 characters.

const CACHE_THRESHOLD: f64 = 0.3;
const BALANCE_ABS: usize = 64;
const BALANCE_REL: f64 = 1.5;
const MAX_TREE: usize = 1 << 26;
const EVICTION_SECONDS: f64 = 120.0;
const ROOT: usize = 0;

/// The tree, with all workers in it.
#[derive(Debug)]
pub(crate) struct Reference {
    nodes: Vec<Node>,
    free: Vec<usize>,
    /// Characters of each worker.
    sizes: Vec<usize>,
    epoch: u64,
    evicted: f64,
}

#[derive(Debug, Default)]
struct Node {
    edge: Vec<u8>,
    parent: usize,
    children: Vec<(u8, usize)>,
    /// Workers that were sent this prefix, and when they last were.
    tenants: Vec<(usize, u64)>,
}

impl Reference {
    /// An empty tree.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
            sizes: vec![0; workers],
            epoch: 0,
            evicted: 0.0,
        }
    }

    /// Chooses among `loads`: workers and their requests in flight.
    pub(crate) fn pick(&mut self, text: &[u8], loads: &[(usize, usize)], now: f64) -> usize {
        if now - self.evicted >= EVICTION_SECONDS {
            self.evicted = now;
            self.evict();
        }
        let chosen = self.choose(text, loads);
        self.insert(text, chosen);
        chosen
    }

    /// Forgets a worker.
    pub(crate) fn leave(&mut self, worker: usize) {
        for at in self.leaves_of(worker) {
            self.forget(at, worker);
        }
    }

    fn choose(&self, text: &[u8], loads: &[(usize, usize)]) -> usize {
        let least = loads.iter().min_by_key(|(_, load)| *load);
        let (least, min) = least.copied().unwrap_or_default();
        let max = loads.iter().map(|(_, load)| *load).max().unwrap_or(0);
        if max - min > BALANCE_ABS && max as f64 > BALANCE_REL * min as f64 {
            return least;
        }
        let (matched, node) = self.longest(text);
        if matched as f64 > CACHE_THRESHOLD * text.len() as f64 {
            let tenants = self.nodes[node].tenants.iter();
            let here = tenants.filter(|(worker, _)| loads.iter().any(|(w, _)| w == worker));
            if let Some((worker, _)) = here.max_by_key(|(_, used)| *used) {
                return *worker;
            }
        }
        let smallest = loads.iter().min_by_key(|(worker, _)| self.sizes[*worker]);
        smallest.map_or(least, |(worker, _)| *worker)
    }

    /// Characters matched, and the last node that they reach into.
    fn longest(&self, text: &[u8]) -> (usize, usize) {
        let (mut at, mut matched) = (ROOT, 0);
        while let Some(child) = self.child(at, text.get(matched..).unwrap_or_default()) {
            let edge = &self.nodes[child].edge;
            let shared = shared(edge, text.get(matched..).unwrap_or_default());
            matched += shared;
            at = child;
            if shared < edge.len() {
                break;
            }
        }
        (matched, at)
    }

    fn child(&self, at: usize, rest: &[u8]) -> Option<usize> {
        let first = rest.first()?;
        let children = self.nodes[at].children.iter();
        let mut named = children.filter(|(letter, _)| letter == first);
        named.next().map(|(_, child)| *child)
    }

    fn insert(&mut self, text: &[u8], worker: usize) {
        self.epoch += 1;
        let (mut at, mut done) = (ROOT, 0);
        while done < text.len() {
            let rest = text.get(done..).unwrap_or_default();
            let next = match self.child(at, rest) {
                None => self.add(at, rest.to_vec()),
                Some(child) => {
                    let shared = shared(&self.nodes[child].edge, rest);
                    if shared < self.nodes[child].edge.len() {
                        self.split(child, shared)
                    } else {
                        child
                    }
                }
            };
            done += self.nodes[next].edge.len();
            self.mark(next, worker);
            at = next;
        }
    }

    fn mark(&mut self, at: usize, worker: usize) {
        let epoch = self.epoch;
        let node = &mut self.nodes[at];
        match node
            .tenants
            .iter_mut()
            .find(|(tenant, _)| *tenant == worker)
        {
            Some((_, used)) => *used = epoch,
            None => {
                node.tenants.push((worker, epoch));
                self.sizes[worker] += node.edge.len();
            }
        }
    }

    fn add(&mut self, parent: usize, edge: Vec<u8>) -> usize {
        let letter = edge.first().copied().unwrap_or_default();
        let node = Node {
            edge,
            parent,
            ..Node::default()
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        self.nodes[parent].children.push((letter, at));
        at
    }

    /// Cuts the edge of `child`; gives the new node above it.
    fn split(&mut self, child: usize, length: usize) -> usize {
        let parent = self.nodes[child].parent;
        let lower = self.nodes[child].edge.split_off(length);
        let upper = std::mem::replace(&mut self.nodes[child].edge, lower);
        self.nodes[parent].children.retain(|(_, at)| *at != child);
        let above = self.add(parent, upper);
        let letter = self.nodes[child].edge.first().copied().unwrap_or_default();
        self.nodes[above].children.push((letter, child));
        self.nodes[above].tenants = self.nodes[child].tenants.clone();
        self.nodes[child].parent = above;
        above
    }

    fn evict(&mut self) {
        for worker in 0..self.sizes.len() {
            while self.sizes[worker] > MAX_TREE {
                let used = |at: &usize| {
                    let tenants = self.nodes[*at].tenants.iter();
                    let mut own = tenants.filter(|(tenant, _)| *tenant == worker);
                    own.next().map_or(0, |(_, used)| *used)
                };
                let mut leaves = self.leaves_of(worker);
                leaves.sort_unstable_by_key(used);
                for at in leaves {
                    if self.sizes[worker] <= MAX_TREE {
                        break;
                    }
                    self.forget_one(at, worker);
                }
            }
        }
    }

    /// Nodes of `worker` below which it has no other.
    fn leaves_of(&self, worker: usize) -> Vec<usize> {
        let has = |at: usize| self.nodes[at].tenants.iter().any(|(w, _)| *w == worker);
        (1..self.nodes.len())
            .filter(|at| has(*at))
            .filter(|at| {
                !self.nodes[*at]
                    .children
                    .iter()
                    .any(|(_, below)| has(*below))
            })
            .collect()
    }

    /// Takes `worker` out of `at` and of what is above it.
    fn forget(&mut self, mut at: usize, worker: usize) {
        while at != ROOT {
            let parent = self.nodes[at].parent;
            self.forget_one(at, worker);
            at = parent;
        }
    }

    fn forget_one(&mut self, at: usize, worker: usize) {
        let node = &mut self.nodes[at];
        let before = node.tenants.len();
        node.tenants.retain(|(tenant, _)| *tenant != worker);
        if node.tenants.len() < before {
            self.sizes[worker] -= node.edge.len();
        }
        if node.tenants.is_empty() && node.children.is_empty() {
            let parent = node.parent;
            *node = Node::default();
            self.nodes[parent]
                .children
                .retain(|(_, child)| *child != at);
            self.free.push(at);
        }
    }
}

fn shared(a: &[u8], b: &[u8]) -> usize {
    let whole = a.len().min(b.len());
    let (chunks, other) = (a.chunks_exact(32), b.chunks_exact(32));
    let equal = chunks.zip(other).take_while(|(a, b)| a == b).count() * 32;
    let rest = a.iter().zip(b).skip(equal).take_while(|(a, b)| a == b);
    (equal + rest.count()).min(whole)
}
