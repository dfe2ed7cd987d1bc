import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** Pools of threads, and threads of their own, come and go until the input ends. */
public class Pool {
    public static void main(String[] arguments) throws Exception {
        Thread ender = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (java.io.IOException ended) { }
            System.exit(0);
        });
        ender.setDaemon(true);
        ender.start();
        System.out.println("ready");
        for (int round = 1; ; round++) {
            ExecutorService pool = Executors.newFixedThreadPool(8);
            List<Future<Integer>> results = new ArrayList<>();
            for (int task = 0; task < 40; task++) {
                int size = 1000 * (task + 1);
                results.add(pool.submit(() -> new int[size].length));
            }
            int sum = 0;
            for (Future<Integer> result : results) {
                sum += result.get();
            }
            pool.shutdown();
            List<Thread> threads = new ArrayList<>();
            for (int number = 0; number < 4; number++) {
                Thread thread = new Thread(() -> new byte[1 << 16].hashCode());
                thread.start();
                threads.add(thread);
            }
            for (Thread thread : threads) {
                thread.join();
            }
            System.out.println("finished " + round + " " + sum);
            Thread.sleep(20);
        }
    }
}
