//! The mathematics against vectors that nobody here wrote.

mod foreign;
