//! The ledger's promises and their failures.

mod crash;
mod damage;
mod support;
