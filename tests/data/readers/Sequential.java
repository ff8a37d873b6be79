// Prints the SHA-256 and the name of each member that java.util.zip.ZipInputStream finds.
import java.io.FileInputStream;
import java.math.BigInteger;
import java.security.MessageDigest;
import java.util.zip.ZipEntry;
import java.util.zip.ZipInputStream;

public class Sequential {
    public static void main(String[] arguments) throws Exception {
        try (ZipInputStream zip = new ZipInputStream(new FileInputStream(arguments[0]))) {
            for (ZipEntry entry; (entry = zip.getNextEntry()) != null; ) {
                byte[] digest = MessageDigest.getInstance("SHA-256").digest(zip.readAllBytes());
                System.out.printf("%064x %s%n", new BigInteger(1, digest), entry.getName());
            }
        }
    }
}
