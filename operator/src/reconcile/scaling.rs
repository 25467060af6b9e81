//! How many pods the StatefulSet may have. It grows at once; it shrinks only by nodes that hold nothing.

/// The StatefulSet's replicas. It removes the highest ordinals first, so the first node from the top that still holds
/// something keeps all below it. `current`: what it has now, or
/// needs for its data to be found; `None`: there is none yet.
pub(super) fn replicas(wanted: i32, current: Option<i32>, is_empty_handed: impl Fn(i32) -> bool) -> i32 {
    let mut replicas = current.unwrap_or(wanted).max(wanted);
    while replicas > wanted && is_empty_handed(replicas - 1) {
        replicas -= 1;
    }
    replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_at_once() {
        assert_eq!(replicas(3, None, |_| false), 3);
        assert_eq!(replicas(5, Some(3), |_| false), 5);
    }

    #[test]
    fn it_never_shrinks_below_a_node_that_still_holds_something() {
        assert_eq!(replicas(1, Some(4), |_| false), 4);
        assert_eq!(replicas(1, Some(4), |ordinal| ordinal == 3), 3);
        assert_eq!(replicas(1, Some(4), |ordinal| ordinal != 3), 4, "a lower node can't go before a higher one");
        assert_eq!(replicas(1, Some(4), |ordinal| ordinal != 2), 3);
    }

    #[test]
    fn it_never_shrinks_below_what_is_wanted() {
        assert_eq!(replicas(2, Some(4), |_| true), 2);
        assert_eq!(replicas(2, Some(2), |_| true), 2);
    }
}
