# Prints the SHA-256 and the name of each member that IO::Uncompress::Unzip finds.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use IO::Uncompress::Unzip qw($UnzipError);

# Transparent mode would hand on what follows the members as one more, which has no name.
my $zip = IO::Uncompress::Unzip->new($ARGV[0], Transparent => 0) or die $UnzipError;
my $status;
for ($status = 1; $status > 0; $status = $zip->nextStream()) {
    my ($all, $part, $got) = ("", "");
    while (($got = $zip->read($part)) > 0) { $all .= $part }
    die $UnzipError if $got < 0;
    print sha256_hex($all), " ", $zip->getHeaderInfo()->{Name}, "\n";
}
die $UnzipError if $status < 0;
