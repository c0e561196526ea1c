//! Apache Spark standalone (examples/spark): no process runs, a query brings the cluster up, and
//! some seconds later no process runs again. With another prefix, and without settings: root.rs.

mod common;

/// In the loopback plane each host needs a setting with its name, since Spark shuns loopback
/// addresses.
#[test]
fn a_query_brings_up_an_engine_that_is_gone_after_it() {
    common::spark::one_query("spark", &[]);
}
