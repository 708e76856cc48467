//! Who may come in over TCP: the admin's token at the start, and TLS.

use crate::application::ports::{Random, Store, StoreError};
use crate::application::{Adopted, Secret, adopt};
use crate::config::{Auth, Settings};
use crate::domain::Timestamp;
use crate::http::Options;
use crate::infrastructure::directories::Places;
use crate::infrastructure::token_file;

/// What is configured about requests.
pub(super) fn options(settings: &Settings) -> Options {
    Options {
        asks_token: settings.server.auth == Auth::Token,
        rate: settings
            .server
            .rate
            .map(|pace| (pace.requests, pace.period)),
    }
}

/// Sees that there is a token for the admin, in its file and in the database. Where the disk has no
/// room for it payd starts all the same: on the Unix socket none is needed.
pub(super) fn admin_token<S: Store>(
    store: &mut S,
    places: &Places,
    random: &dyn Random,
    wall: Timestamp,
) -> Result<(), StoreError> {
    let path = places.token();
    let found = match token_file::find_or_make(&path, || Secret::new(random)) {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(%error, "there is no admin token");
            return Ok(());
        }
    };
    let file = path.display();
    if found.open_to_others {
        tracing::warn!(%file, "others than its owner may read the admin's token: chmod 600, or remove it and start payd again for another");
    }
    match adopt(store, &found.secret, wall) {
        Ok(Adopted::Known) => Ok(()),
        Ok(Adopted::New) if found.fresh => {
            tracing::info!(%file, "an admin token was made");
            Ok(())
        }
        Ok(Adopted::New) => {
            tracing::warn!(%file, "the admin token in the file was not known to the database; it is from here on, and the one before is revoked");
            Ok(())
        }
        Ok(Adopted::NotGood(why)) => {
            tracing::warn!(%file, ?why, "the admin token in the file is good for nothing; remove the file and start payd again for another");
            Ok(())
        }
        Err(error @ (StoreError::NoRoom(_) | StoreError::Busy(_))) => {
            tracing::error!(%error, "the admin token cannot be kept; it is good from the next start on");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

#[cfg(feature = "tls")]
pub(super) mod tls {
    //! Certificate and key, read at the start and again on SIGHUP.

    use std::sync::Arc;

    use tokio::sync::watch;

    use crate::config::Settings;
    use crate::http::Tls;
    use crate::infrastructure::directories::Places;
    use crate::infrastructure::tls;

    /// What new connections are made with, to be replaced.
    pub(crate) type Source = watch::Sender<Tls>;

    /// Reads the files that the settings name; none where they name none. The error is for people.
    pub(crate) fn load(settings: &Settings, places: &Places) -> Result<Option<Tls>, String> {
        let Some(files) = &settings.server.tls else {
            return Ok(None);
        };
        let place = |path| places.credential(path).map_err(|error| error.to_string());
        let (cert, key) = (place(&files.cert)?, place(&files.key)?);
        let loaded = tls::load(&cert, &key).map_err(|error| error.to_string())?;
        let config = Arc::clone(&loaded.config);
        let covers = Arc::new(move |name: &str| loaded.covers(name));
        Ok(Some(Tls { config, covers }))
    }

    /// Reads them again for connections to come. What holds goes on holding where they are wrong.
    pub(crate) fn reload(source: Option<&Source>, settings: &Settings, places: &Places) {
        let Some(source) = source else { return };
        match load(settings, places) {
            Ok(Some(tls)) => {
                source.send_replace(tls);
                tracing::info!("certificate and key were read again");
            }
            Ok(None) => tracing::error!(
                "server.tls_cert is gone from the settings; TLS goes on with what it has"
            ),
            Err(error) => tracing::error!(%error, "certificate and key stay as they were"),
        }
    }
}

#[cfg(not(feature = "tls"))]
pub(super) mod tls {
    //! This payd was built without TLS.

    use crate::config::Settings;
    use crate::infrastructure::directories::Places;

    /// There is none.
    pub(crate) type Source = std::convert::Infallible;

    /// Refuses settings that ask for it.
    pub(crate) fn load(settings: &Settings, _: &Places) -> Result<Option<Source>, String> {
        match settings.server.tls {
            Some(_) => Err("server.tls_cert is set, and this payd was built without TLS: build it with --features tls".to_owned()),
            None => Ok(None),
        }
    }

    /// Nothing to read.
    pub(crate) fn reload(_: Option<&Source>, _: &Settings, _: &Places) {}
}
