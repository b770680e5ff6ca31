//! Talks to one worker over HTTP.
