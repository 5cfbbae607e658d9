//! TLS of the administration page, from a certificate and a key in PEM files: TLS 1.3 only, which all
//! browsers have. A renewed certificate takes effect at the next start.

use crate::config::TlsFiles;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::{self, ServerConfig, version};

/// The reason why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not a PEM file with what it must contain.
    #[error("cannot read {}: {source}; name a PEM file with {content}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The contents that are required.
        content: &'static str,
        /// The cause.
        source: pem::Error,
    },
    /// The key does not belong to the certificate, or is of an unknown kind.
    #[error("cannot use the certificate {}: {source}; name its own key under admin.key", path.display())]
    Unfit {
        /// The certificate.
        path: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
}

/// Reads a certificate and its key.
///
/// # Errors
/// If a file cannot be read, or the two do not fit.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let cert = |source| pem(&files.cert, "a certificate and its chain", source);
    let chain = CertificateDer::pem_file_iter(&files.cert).map_err(cert)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| pem(&files.key, "a private key", source))?;
    let unfit = |source| TlsError::Unfit {
        path: files.cert.clone(),
        source,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unfit)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn pem(path: &Path, content: &'static str, source: pem::Error) -> TlsError {
    TlsError::Pem {
        path: path.to_owned(),
        content,
        source,
    }
}
