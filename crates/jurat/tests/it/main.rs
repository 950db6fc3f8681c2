//! The real binary: sessions end to end, crashes, the real Claude Code, what a user sees.

mod corpus;
mod crash;
mod fleet;
mod live;
mod mutate;
mod order;
mod user;
