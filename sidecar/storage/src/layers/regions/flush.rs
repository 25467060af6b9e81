//! Brings what a region lacks there. No lock is held meanwhile: a record is read where it is, and brought as it is then;
//! what was written since is noted, and sent again.

use std::sync::Arc;

use super::pending::{Flight, Said};
use super::region::Missed;
use super::store::Store;
use crate::Error;
use crate::layers::behind::send_all;

/// Sends to one region what there is to send, as long as it is let.
pub(super) async fn attend(store: &Arc<Store>, at: usize) {
    let pending = &store.pending[at];
    let fly = |flight| Box::pin(fly(store, at, flight));
    send_all(store.shared.settings.flights(), || pending.next(), &pending.news, fly).await;
}

async fn fly(store: &Store, at: usize, flight: Box<Flight>) {
    let said = send(store, at, &flight).await;
    match &said {
        Said::Away(error) | Said::Failed(error) => {
            store.shared.counts.failed.add(1);
            let (region, key) = (&*store.regions[at].name, flight.place.1.as_str());
            tracing::debug!(%error, region, key, "a key could not be brought to a region");
        }
        Said::Done(_) => {}
    }
    store.pending[at].end(&flight.place, said);
}

async fn send(store: &Store, at: usize, flight: &Flight) -> Said {
    let (key, space, source) = (&flight.place.1, &flight.space, flight.unsent.source);
    if let Err(error) = store.ready().await.and_then(|()| store.check_claim()) {
        return Said::Failed(error);
    }
    let _work = store.begin();
    let recent = if source == store.here { store.recent.get(space, key) } else { None };
    let found = match recent.filter(|(record, _)| record.time() >= flight.unsent.time) {
        Some(recent) => Ok(Some(recent)),
        None => store.find(source, space, key).await,
    };
    let record = match found {
        Ok(Some((record, _))) => record,
        // A removal that every region had, or a region that was emptied: there is nothing to send.
        Ok(None) => return Said::Done(0),
        Err(error) => return Said::Failed(error),
    };
    // What another region has written later, that one sends.
    if !flight.unsent.relay && record.region != store.regions[store.here].name {
        return Said::Done(record.time());
    }
    match store.regions[at].merge(at, space, key, &record, &store.shared.clock).await {
        Ok(_) => {
            store.shared.counts.sent.add(1);
            Said::Done(record.time())
        }
        Err(Missed::Failed(error @ Error::Unavailable { .. })) => Said::Away(error),
        Err(Missed::Failed(error)) => Said::Failed(error),
        Err(Missed::Unknown(why)) => Said::Away(Error::unavailable("Unknown", why)),
    }
}
