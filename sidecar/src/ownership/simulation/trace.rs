//! What happens, line by line, with the time: written only where somebody is going to read it.

use std::fmt::Write;
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::host::simulated::{Host, Scheduler};

#[derive(Debug)]
pub(super) struct Trace(Option<Mutex<Vec<String>>>);

impl Trace {
    pub(super) fn new(wanted: bool) -> Self {
        Self(wanted.then(Mutex::default))
    }

    pub(super) fn say(&self, scheduler: &Scheduler, who: &str, what: impl FnOnce() -> String) {
        if let Some(lines) = &self.0 {
            let line = format!("{:>9.3}  {who:<13}  {}", scheduler.elapsed().as_secs_f64(), what());
            lines.lock().unwrap().push(line);
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.0.as_ref().map(|lines| lines.lock().unwrap().clone()).unwrap_or_default()
    }
}

/// Takes what the runtime itself logs into the trace.
pub(super) struct Logged(pub(super) std::sync::Arc<super::world::World>);

impl<S: Subscriber> Layer<S> for Logged {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(host) = Host::current() else { return };
        let mut text = Text::default();
        event.record(&mut text);
        self.0.say(host.name(), || format!("log: {}{}", text.message, text.fields));
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _infallible = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
