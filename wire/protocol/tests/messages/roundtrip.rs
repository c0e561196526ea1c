//! Every message comes back as it was sent.

use std::fmt::Debug;

use imsup_protocol::codec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::strategies;

fn comes_back<M>(message: M) -> Result<(), TestCaseError>
where
    M: Serialize + DeserializeOwned + Debug + PartialEq,
{
    let mut frame = codec::encode(&message).expect("test messages are short");
    prop_assert_eq!(codec::decode(&mut frame), Ok(Some(message)));
    prop_assert!(frame.is_empty());
    Ok(())
}

proptest! {
    #[test]
    fn to_broker(message in strategies::to_broker()) {
        comes_back(message)?;
    }

    #[test]
    fn to_supervisor(message in strategies::to_supervisor()) {
        comes_back(message)?;
    }

    #[test]
    fn requests(message in strategies::request()) {
        comes_back(message)?;
    }

    #[test]
    fn responses(message in strategies::response()) {
        comes_back(message)?;
    }

    #[test]
    fn openings(message in strategies::opening()) {
        comes_back(message)?;
    }
}

/// The properties above speak of every variant only if the strategies make every variant.
#[test]
fn the_strategies_make_every_variant() {
    fn check<M>(strategy: impl Strategy<Value = M>)
    where
        M: Serialize + DeserializeOwned + Debug,
    {
        let mut runner = TestRunner::deterministic();
        let values: Vec<M> = (0..500)
            .map(|_| strategy.new_tree(&mut runner).expect("a value").current())
            .collect();
        crate::assert_every_variant(&values);
    }
    check(strategies::to_broker());
    check(strategies::to_supervisor());
    check(strategies::request());
    check(strategies::response());
    check(strategies::opening());
}
