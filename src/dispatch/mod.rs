//! Attempts: pick, call, classify, account, retry.
