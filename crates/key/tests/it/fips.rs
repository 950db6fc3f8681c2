//! What a build with feature `fips` speaks, and what every other build speaks as well.

use std::sync::Arc;

use jurat_key::{fips, tls};
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider, kx_group as group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedCipherSuite,
};

/// A peer that speaks this alone.
fn only(suite: SupportedCipherSuite, group: &'static dyn SupportedKxGroup) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        kx_groups: vec![group],
        ..default_provider()
    })
}

/// Whether they come to an agreement.
fn agree(client: ClientConfig, server: Arc<ServerConfig>) -> Result<(), rustls::Error> {
    let name = "localhost".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(server)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
        server.read_tls(&mut sent.as_slice()).unwrap();
        server.process_new_packets()?;
        sent.clear();
        while server.wants_write() {
            server.write_tls(&mut sent).unwrap();
        }
        client.read_tls(&mut sent.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn a_build_on_the_module_refuses_peers_that_speak_nothing_that_it_may() {
    let made = tls::generate(&["localhost".into()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| dir.path().join(name));
    std::fs::write(&certificate, &made.certificate).unwrap();
    std::fs::write(&key, &made.key).unwrap();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(made.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(made.ca.as_bytes()).unwrap())
        .unwrap();

    let chacha = suite::TLS13_CHACHA20_POLY1305_SHA256;
    let chacha12 = suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    let aes = suite::TLS13_AES_256_GCM_SHA384;
    let aes12 = suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    for (suite, group, is_fips) in [
        (aes, group::SECP256R1, true),
        (aes, group::SECP384R1, true),
        (aes12, group::SECP256R1, true),
        (chacha, group::X25519, false),
        (chacha, group::SECP256R1, false),
        (chacha12, group::SECP256R1, false),
        (aes, group::X25519, false),
    ] {
        let what = format!("{suite:?} with {group:?}");
        let peer = || only(suite, group);
        let ours = tls::client(Some(made.ca.as_bytes())).unwrap();
        let theirs = ServerConfig::builder_with_provider(peer())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                chain.clone(),
                PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let agreed = agree(ours, Arc::new(theirs));
        let expected = is_fips || !fips::IS_BUILT;
        assert_eq!(agreed.is_ok(), expected, "a server of {what}: {agreed:?}");

        let theirs = ClientConfig::builder_with_provider(peer())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let ours = tls::server(&certificate, &key, tls::Ask::Clients)
            .unwrap()
            .config;
        let agreed = agree(theirs, ours);
        assert_eq!(agreed.is_ok(), expected, "a client of {what}: {agreed:?}");
    }
}
