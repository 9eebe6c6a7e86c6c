//! Writes the initial inputs of the fuzz targets: `seeds FOLDER TARGET`.

use std::path::Path;
use std::{env, fs, io};

const REQUESTS: [&str; 4] = [
    "set=1\nprivate_key=0101010101010101010101010101010101010101010101010101010101010101\nlisten_port=51820\n\
     fwmark=51820\nreplace_peers=true\n\
     public_key=0202020202020202020202020202020202020202020202020202020202020202\n\
     preshared_key=0404040404040404040404040404040404040404040404040404040404040404\n\
     endpoint=[2001:db8::1]:51820\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
     allowed_ip=10.0.0.0/8\nallowed_ip=fd00::/64\nprotocol_version=1\n\
     public_key=0303030303030303030303030303030303030303030303030303030303030303\n\
     endpoint=192.0.2.1:51820\nallowed_ip=10.0.0.1/8\nallowed_ip=0.0.0.0/0\n\n",
    "set=1\npublic_key=0202020202020202020202020202020202020202020202020202020202020202\nallowed_ip=10.0.0.0/8\n\n\
     set=1\npublic_key=0202020202020202020202020202020202020202020202020202020202020202\nupdate_only=true\n\
     allowed_ip=-10.0.0.0/8\nallowed_ip=+10.0.0.1/32\n\nget=1\n\n\
     set=1\npublic_key=0202020202020202020202020202020202020202020202020202020202020202\nremove=true\n\n",
    "set=1\npublic_key=a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209\nallowed_ip=10.0.0.0/8\n\n\
     set=1\nprivate_key=0101010101010101010101010101010101010101010101010101010101010101\n\n\
     set=1\npublic_key=a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209\nallowed_ip=10.0.0.0/8\n\n\
     set=1\nprivate_key=0000000000000000000000000000000000000000000000000000000000000000\n\n",
    "set=1\nlisten_port=1\nno equals sign\n\nset=1\nprivate_key=00\n\nfeatures=1\n\ndiagnostics=1\n\nset=1\n\nget=2\n\n",
];

/// The other targets interpret any bytes as a sequence of events: here are inputs that depend only on their number.
fn bytes(number: u64) -> Vec<u8> {
    let mut state = number;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..number * number * 100).map(step).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "uapi" => REQUESTS.map(|text| text.as_bytes().to_vec()).into(),
        _ => (1..=6).map(bytes).collect(),
    }
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, target] = &arguments[..] else {
        return Err(io::Error::other("usage: seeds FOLDER TARGET"));
    };
    fs::create_dir_all(folder)?;
    for (number, seed) in seeds(target).iter().enumerate() {
        fs::write(Path::new(folder).join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}
