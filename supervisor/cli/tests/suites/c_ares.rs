//! The tests of c-ares, the resolver of node and gRPC: three shards that run at once, since they
//! mostly wait for answers that do not come.

use crate::compare::suite;
use crate::fetched;
use crate::results::Format;
use crate::unit::Unit;

const SHARDS: usize = 3;

/// Left out are tests that ask the internet, tests that read files in a container of their own
/// making, and two that wait for a quarter of a minute each.
const FILTER: &str = "--gtest_filter=-*Live*:*Container*:*SearchDomainsAllocFail*";

#[test]
fn c_ares_comes_out_the_same() {
    let program = fetched("c-ares").join("test/arestest");
    let units = (0..SHARDS).map(|shard| {
        let name = format!("shard {shard}");
        let mut unit = Unit::new(name, &[program.to_str().unwrap(), FILTER], Format::GoogleTest);
        unit.environment = vec![
            ("GTEST_TOTAL_SHARDS", SHARDS.to_string()),
            ("GTEST_SHARD_INDEX", shard.to_string()),
        ];
        unit
    });
    suite("c-ares", units.collect());
}
