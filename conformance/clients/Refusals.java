// The clients of HTTP of the JDK: refusals of long bodies.
import java.io.ByteArrayInputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;

class Refusals {
  record Refusal(int status, String who, int size) {}

  static void check(String client, String what, int status, Callable<Integer> ask) {
    Map<String, Integer> seen = new TreeMap<>();
    for (int attempt = 0; attempt < 20; attempt++) {
      String answer;
      try {
        answer = ask.call().toString();
      } catch (Exception error) {
        answer = error.toString();
      }
      seen.merge(answer, 1, Integer::sum);
    }
    boolean passed = seen.equals(Map.of(Integer.toString(status), 20));
    System.out.printf("%-5s %-26s %s%s%n", passed ? "ok" : "FAIL", client, what, passed ? "" : ": " + seen);
  }

  public static void main(String[] args) throws Exception {
    Path directory = Path.of(System.getenv("STATE_DIR"));
    String record = Files.readString(directory.resolve("registration.json"));
    URI events = URI.create(record.replaceAll("(?s).*\"url\": *\"([^\"]+)\".*", "$1") + "/v1/events");
    String bearer = "Bearer " + Files.readString(directory.resolve("credential")).trim();
    HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    Refusal[] refusals = {
      new Refusal(401, "a stranger", 900_000),
      new Refusal(413, "its user", 100_000),
      new Refusal(413, "its user", 20_000_000),
    };
    for (Refusal refusal : refusals) {
      byte[] body = new byte[refusal.size()];
      boolean known = refusal.status() == 413;
      for (boolean inChunks : new boolean[] {false, true}) {
        String what = "reads %d to %d kB%s of %s in 20 of 20"
            .formatted(refusal.status(), refusal.size() / 1000, inChunks ? " in chunks" : "", refusal.who());
        check("java HttpClient", what, refusal.status(), () -> {
          var publisher = inChunks
              ? BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body))
              : BodyPublishers.ofByteArray(body);
          var request = HttpRequest.newBuilder(events).timeout(Duration.ofSeconds(10)).POST(publisher);
          request.header("Content-Type", "application/json");
          if (known) request.header("Authorization", bearer);
          return client.send(request.build(), BodyHandlers.ofString()).statusCode();
        });
        check("java HttpURLConnection", what, refusal.status(), () -> {
          var connection = (HttpURLConnection) events.toURL().openConnection();
          connection.setRequestMethod("POST");
          connection.setDoOutput(true);
          if (inChunks) connection.setChunkedStreamingMode(65536);
          else connection.setFixedLengthStreamingMode(body.length);
          connection.setRequestProperty("Content-Type", "application/json");
          if (known) connection.setRequestProperty("Authorization", bearer);
          connection.setReadTimeout(10_000);
          try (var output = connection.getOutputStream()) {
            output.write(body);
          }
          return connection.getResponseCode();
        });
      }
    }
  }
}
