//! Finds out what the OpenSSL that is linked can do.

/// OpenSSL has raw public keys (RFC 7250) since this version, 3.2.0.
const RAW_PUBLIC_KEYS: u64 = 0x3020_0000;

/// Ciphers have named parameters since this version, 3.0.0.
const CIPHER_PARAMETERS: u64 = 0x3000_0000;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(raw_public_keys, cipher_parameters)");
    let version = std::env::var("DEP_OPENSSL_VERSION_NUMBER").ok();
    let version = version.and_then(|version| u64::from_str_radix(&version, 16).ok());
    for (since, name) in [(RAW_PUBLIC_KEYS, "raw_public_keys"), (CIPHER_PARAMETERS, "cipher_parameters")] {
        if version.is_some_and(|version| version >= since) {
            println!("cargo::rustc-cfg={name}");
        }
    }
}
