//! How a process of ours behaves towards whoever runs it.

/// From now on a panic anywhere ends the whole process. It is a mistake of ours, and the task that it ended (a renewal, a
/// hand-off, a watch) would be missing silently from then on; a crash is what every part of the system is made for.
pub fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
