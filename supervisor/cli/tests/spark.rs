//! Apache Spark standalone (examples/spark): nothing runs, a query brings the cluster up, and some seconds after it nothing runs again.
//! With another prefix, and no setting: root.rs.

mod common;

/// In the loopback plane each host is told its name, since Spark shuns loopback addresses.
#[test]
fn a_query_brings_up_an_engine_that_is_gone_after_it() {
    common::spark::one_query("spark", &[]);
}
