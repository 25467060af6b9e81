//! What code asks of the process and the machine that it runs on: tasks, and the time of day. In production these are
//! tokio's and the system's. A simulation has many processes in one, each on a machine of its own: there a task belongs to
//! the process that began it, and stands still or dies with it.

#[cfg(test)]
pub(crate) mod simulated;

use tokio::task::JoinHandle;

/// Begins a task of this process.
#[cfg(not(test))]
pub(crate) fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(task)
}

/// A task of this process, to be begun as part of a set.
#[cfg(not(test))]
pub(crate) fn task<F: Future>(task: F) -> F {
    task
}

/// The time of day: for people.
#[cfg(not(test))]
pub(crate) fn wall() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[cfg(test)]
pub(crate) fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(self::task(task))
}

#[cfg(test)]
pub(crate) fn task<F: Future<Output: Send> + Send + 'static>(
    task: F,
) -> futures::future::BoxFuture<'static, F::Output> {
    match simulated::Host::current() {
        Some(host) => Box::pin(host.task(task)),
        None => Box::pin(task),
    }
}

#[cfg(test)]
pub(crate) fn wall() -> jiff::Timestamp {
    simulated::Host::current().map_or_else(jiff::Timestamp::now, |host| host.wall())
}
