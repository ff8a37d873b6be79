// Prints the SHA-256 and the name of each member that unzipper or unzip-stream (first argument: its folder) finds.
const crypto = require("crypto");
const fs = require("fs");
const fail = (error) => { console.error(error); process.exit(1); };
fs.createReadStream(process.argv[3]).on("error", fail)
    .pipe(require(process.argv[2]).Parse()).on("error", fail)
    .on("entry", (entry) => {
        const hash = crypto.createHash("sha256");
        entry.on("data", (part) => hash.update(part)).on("error", fail)
            .on("end", () => console.log(hash.digest("hex"), entry.path));
    });
