import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.List;
import java.util.stream.IntStream;

/**
 * Asks a gateway as every stock Java client does: with HttpClient's defaults, which offer HTTP/2 in an Upgrade header.
 *
 * <p>Usage: java JavaClient.java URL MODEL. Prints one line for each request: what it was, the status and the body.
 */
class JavaClient {
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    private final String url;
    private final String model;

    JavaClient(String url, String model) {
        this.url = url;
        this.model = model;
    }

    public static void main(String[] arguments) throws Exception {
        new JavaClient(arguments[0], arguments[1]).run();
    }

    private void run() throws Exception {
        tell("models", CLIENT.send(request("/v1/models").build(), BodyHandlers.ofString()));
        tell("completion", CLIENT.send(completion("hello", false), BodyHandlers.ofString()));
        tell("large", CLIENT.send(completion("hello".repeat(40_000), false), BodyHandlers.ofString()));
        tell("invalid", CLIENT.send(completion("\u0001", false), BodyHandlers.ofString()));
        var lines = CLIENT.send(completion("hello", true), BodyHandlers.ofLines());
        tell("stream", lines.statusCode(), String.join("|", lines.body().filter(line -> !line.isEmpty()).toList()));
        var asked = IntStream.range(0, 8).mapToObj(number -> completion("hello", false)).toList();
        var answers = asked.stream().map(one -> CLIENT.sendAsync(one, BodyHandlers.ofString())).toList();
        for (var answer : answers) {
            tell("at once", answer.get());
        }
    }

    private HttpRequest completion(String prompt, boolean stream) {
        var body = "{\"model\": \"%s\", \"prompt\": \"%s\", \"max_tokens\": 5, \"stream\": %b}".formatted(model, prompt, stream);
        return request("/v1/completions")
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
    }

    private HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(url + path));
    }

    private static void tell(String what, HttpResponse<String> answer) {
        tell(what, answer.statusCode(), answer.body());
    }

    private static void tell(String what, int status, String body) {
        System.out.println(String.join("\t", List.of(what, String.valueOf(status), body)));
    }
}
